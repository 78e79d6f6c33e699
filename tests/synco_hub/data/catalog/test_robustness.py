from synco_hub.data.catalog.robustness import BENCHMARK_CORRUPTIONS, ROBUSTNESS_ROWS
from synco_hub.metrics.corruption_error import ALEXNET_ERRORS

ROWS = {row.name: row for row in ROBUSTNESS_ROWS}


def test_corruptions_are_those_of_the_corruption_error():
    assert sorted(BENCHMARK_CORRUPTIONS) == sorted(ALEXNET_ERRORS)
    assert ROWS["imagenet-c"].counts == {"test": 3_750_000}


def test_label_subsets_have_as_many_images_as_their_lists_have_lines():
    assert ROWS["imagenet-1pct"].counts == {"train": 12811, "test": 50000}
    assert ROWS["imagenet-10pct"].counts == {"train": 128116, "test": 50000}
    # 189 classes have 12 images and 811 have 13.
    assert 189 * 12 + 811 * 13 == 12811


def test_sets_of_200_classes():
    assert {row.name for row in ROBUSTNESS_ROWS if row.num_classes == 200} == {
        "imagenet-a",
        "imagenet-r",
        "imagenet-o",
    }


def test_version_2_has_its_three_archives():
    archives = [row.original_files.split()[0] for row in ROBUSTNESS_ROWS if row.name.startswith("imagenet-v2")]
    assert archives == [f"imagenetv2-{name}.tar.gz" for name in ("matched-frequency", "threshold0.7", "top-images")]


def test_fractals_count_the_defaults():
    assert (ROWS["fractals"].counts, ROWS["fractals"].num_classes) == ({"train": 1000, "test": 1000}, 10)
