import dataclasses
from pathlib import Path

import pytest

from synco_hub.data import StreamedImages, load_dataset, open_stream
from synco_hub.data.table_source import TableSource
from trainers.knn_callback import load_knn_data
from trainers.pretraining_run import build_config, open_images
from trainers.recipe import parse
from trainers.settings import BackboneArguments, DataArguments, PretrainingSettings


def test_flags_describe_a_config(tmp_path):
    flags = ["--backbone", "vit-nano", "--image-size", "64", "--num_heads", "8", "--depth", "2", "--use-cpu"]
    run = parse([*flags, "--output-dir", str(tmp_path), "--method", "moby"])
    config = build_config(run.backbone, run.settings)
    assert (config.backbone, config.image_size, config.num_heads, config.depth) == ("vit-nano", 64, 8, 2)
    assert config.pretraining == dataclasses.asdict(PretrainingSettings(method="moby"))
    assert config.embed_dim == 96


def test_swin_takes_one_number_a_stage():
    backbone = BackboneArguments(backbone="swin-nano", depth=[2, 4], num_heads=[3, 6])
    config = build_config(backbone, PretrainingSettings())
    assert (config.depth, config.num_heads) == ([2, 4], [3, 6])


def test_a_bad_head_count_is_refused():
    with pytest.raises(ValueError, match="num_heads=5 does not divide"):
        build_config(BackboneArguments(backbone="deit-s", num_heads=[5]), PretrainingSettings())


def test_images_by_position_are_no_stream():
    data = DataArguments(dataset="fractals:num_classes=2,train_images_per_class=3,test_images_per_class=1")
    stream, images = open_images(data, 32, seed=0)
    assert stream is None
    assert not isinstance(images, StreamedImages)
    assert len(images) == 6
    assert images.description == load_dataset(data, "train", image_size=32).description
    assert len(load_dataset(data, "test", image_size=32, max_images=1)) == 1


@pytest.fixture
def with_unlabeled(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    fractals = load_dataset("fractals:num_classes=2,train_images_per_class=6,test_images_per_class=1")
    (tmp_path / "table").mkdir()
    for split, rows in (("train", range(0, 12, 2)), ("test", range(1, 12, 3)), ("unlabeled", range(3, 9))):
        cells = [{"bytes": fractals.encoded(row), "path": None} for row in rows]
        labels = [None if split == "unlabeled" else fractals.class_names[fractals.labels[row]] for row in rows]
        table = datasets.Dataset.from_dict({"image": cells, "label": labels})
        table.to_parquet(tmp_path / "table" / f"{split}-00000-of-00001.parquet")
    return DataArguments(dataset=str(tmp_path / "table"))


@pytest.mark.parametrize("streaming", [False, True])
def test_a_run_on_a_table_takes_what_has_no_labels_unless_it_began_without(with_unlabeled, streaming):
    data = dataclasses.replace(with_unlabeled, streaming=streaming)
    images = open_images(data, 32, 0)[1]
    assert len(images) == 12
    begun = open_stream(data).images() if streaming else load_dataset(data)
    stream, going_on = open_images(data, 32, 0, begun.description.to_dict())
    assert going_on.description == begun.description
    assert len(going_on) == 6
    assert stream is None or stream.source.num_rows == 6
    assert open_images(data, 32, 0, images.description.to_dict())[1].description == images.description


def test_a_stream_goes_on_with_the_splits_that_the_library_found(with_unlabeled):
    data = dataclasses.replace(with_unlabeled, streaming=True)
    for name in ("train", "test"):
        file = Path(data.dataset) / f"{name}-00000-of-00001.parquet"
        file.rename(file.with_name(f"{name.upper()}.parquet"))
    assert open_images(data, 32, 0)[0].source.num_rows == 12
    begun = open_stream(TableSource.of(data, library_splits=True)).images().description
    assert open_images(data, 32, 0, begun.to_dict())[1].description == begun
    assert begun.num_images == 16


def test_neighbours_are_searched_among_the_labeled_rows_of_a_table(with_unlabeled):
    training = open_images(with_unlabeled, 32, 0)[1]
    found = load_knn_data(with_unlabeled, 32, training)
    assert (len(found.bank), len(found.queries)) == (6, 4)
    assert found.bank.images.is_labeled
