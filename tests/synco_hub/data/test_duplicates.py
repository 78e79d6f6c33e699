"""Copies that were planted are found and nothing else; what a group says of its pairs."""

import io
import shutil
from itertools import combinations

import numpy as np
import pytest
from photographs import photograph, save
from PIL import Image, ImageDraw, ImageOps

from synco_hub.data import TooManyBadImagesError, load_dataset
from synco_hub.data.duplicates import find_duplicates
from synco_hub.data.picture_matching import (
    SIDE,
    TINY_SIDE,
    calibrate,
    choose_candidate,
    choose_variant,
    cut_tiny_pictures,
    is_flat,
    is_mirrored,
    make_copies,
    make_thumbnail,
    make_tiny_picture,
    make_tiny_variants,
    measure_similarity,
    unpack_tiny_pictures,
)
from synco_hub.settings import DatasetChoice


def search(*folders, **options):
    sides = [load_dataset(DatasetChoice(str(folder)), "all") for folder in folders]
    return find_duplicates(*sides, num_workers=2, progress=False, **options)


def groups_of(found):
    return found.to_dict()["groups"]


def compare(first, second):
    both = [np.asarray(first), np.asarray(second)]
    thumbnails = [make_thumbnail(pixels) for pixels in both]
    pair = choose_candidate(thumbnails, 0, 1, True)
    one, other = pair.first, pair.second
    return measure_similarity(
        thumbnails[one], thumbnails[other], pair.variant, both[one].shape[1::-1], both[other].shape[1::-1]
    )


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Photographs, of which some have a copy, in the folders of both splits."""
    folder = tmp_path_factory.mktemp("planted")
    for number in range(24):
        save(folder, f"train/a/{number:02d}.png", photograph(number))
    shutil.copy(folder / "train/a/00.png", folder / "train/a/copy00.png")
    save(folder, "train/a/copy01.png", photograph(1), compress_level=0)
    save(folder, "test/a/copy02.jpg", photograph(2), quality=40)
    save(folder, "test/a/copy03.png", photograph(3)[12:, :144])
    save(folder, "test/a/copy04.png", photograph(4)[:, ::-1])
    save(folder, "test/b/copy05.png", Image.fromarray(photograph(5)).resize((80, 60)))
    save(folder, "test/b/copy06.png", Image.fromarray(photograph(6)).resize((320, 240)))
    both = ImageOps.mirror(Image.fromarray(photograph(7)).crop((8, 6, 152, 114))).resize((100, 75))
    save(folder, "test/b/copy07.jpg", both, quality=40)
    return folder


def test_planted_copies_are_found_and_nothing_else(planted):
    found = search(planted)
    copies = [*(f"train/a/copy{k:02d}.png" for k in (0, 1)), "test/a/copy02.jpg", "test/a/copy03.png"]
    copies += ["test/a/copy04.png", "test/b/copy05.png", "test/b/copy06.png", "test/b/copy07.jpg"]
    expected = {frozenset((f"train/a/{k:02d}.png", copy)) for k, copy in enumerate(copies)}
    assert {frozenset(group) for group in groups_of(found)} == expected
    details = {
        frozenset(group): detail for group, detail in zip(groups_of(found), found.to_dict()["details"], strict=True)
    }
    kinds = [details[frozenset((f"train/a/{k:02d}.png", copy))]["kind"] for k, copy in enumerate(copies)]
    assert kinds == ["bytes", "pixels"] + ["near"] * 6
    mirrored = {group for group, detail in details.items() if detail["mirrored"]}
    assert mirrored == {frozenset(("train/a/04.png", copies[4])), frozenset(("train/a/07.png", copies[7]))}
    assert all(0.8 <= detail["similarity"] <= 1 for detail in details.values())
    assert found.calibration.recall >= 0.95
    assert (found.flat, found.families, found.skipped) == ([], [], [])


def test_the_same_call_finds_the_same(planted):
    assert search(planted, seed=3).to_dict() == search(planted, seed=3).to_dict()


def test_several_copies_of_one_picture_are_one_group(tmp_path):
    for number in range(8):
        save(tmp_path, f"{number}.png", photograph(number))
    source = photograph(3)
    windows = {"nw": source[:108, :144], "se": source[12:, 16:], "ne": source[:108, 16:], "sw": source[12:, :144]}
    for name, window in windows.items():
        save(tmp_path, f"3 {name}.png", window)
    save(tmp_path, "3 mirrored.png", source[:, ::-1])
    save(tmp_path, "3.jpg", source, quality=40)
    found = search(tmp_path)
    assert len(found.groups) == 1
    assert set(groups_of(found)[0]) == {"3.png", "3.jpg", "3 mirrored.png", *(f"3 {name}.png" for name in windows)}


def test_a_chain_is_grouped_by_its_verified_pairs_alone(tmp_path):
    first = photograph(0).astype(np.float64) * 0.5 + 64
    step = photograph(50).astype(np.float64) - 128
    # Two steps change four times as much energy as one.
    step *= np.sqrt(0.025 * first.var() / step.var())
    chain = [np.clip(first + k * step, 0, 255).astype(np.uint8) for k in range(3)]
    for number, pixels in enumerate([*chain, *(photograph(k) for k in range(10, 20))]):
        save(tmp_path, f"{number}.png", pixels)
    found = search(tmp_path)
    ends = compare(chain[0], chain[2])
    assert min(compare(chain[0], chain[1]), compare(chain[1], chain[2])) > found.calibration.threshold > ends
    assert groups_of(found) == [["0.png", "1.png"], ["1.png", "2.png"]]


def test_what_is_like_many_that_differ_is_set_apart(tmp_path):
    middle = photograph(0).astype(np.float64) * 0.5 + 64
    save(tmp_path, "middle.png", middle.astype(np.uint8))
    steps = np.stack([photograph(50 + number).astype(np.float64) for number in range(4)])
    steps -= steps.mean(axis=0)  # away from each other
    for number, step in enumerate(steps * np.sqrt(0.03 * middle.var() / steps.var(axis=(1, 2, 3), keepdims=True))):
        save(tmp_path, f"{number}.png", np.clip(middle + step, 0, 255).astype(np.uint8))
    found = search(tmp_path)
    assert ["middle.png" in family for family in found.to_dict()["families"]] == [True]
    assert groups_of(found) == []


def test_flat_pictures_are_the_same_by_their_pixels_alone(tmp_path):
    generator = np.random.default_rng(0)
    slope = np.linspace(0, 200, 160)[None, :, None].repeat(120, 0).repeat(3, 2)
    for number in range(4):
        noise = generator.integers(-2, 3, (120, 160, 3))
        save(tmp_path, f"grey {number}.png", (128 + noise).astype(np.uint8))
        save(tmp_path, f"slope {number}.png", (20 + slope + noise).astype(np.uint8))
    for name in ("white.png", "white again.png"):
        save(tmp_path, name, np.full((40, 40, 3), 255, np.uint8))
    found = search(tmp_path)
    assert len(found.flat) == 10
    assert groups_of(found) == [["white again.png", "white.png"]]
    assert is_flat(make_thumbnail(np.zeros((9, 9, 3), np.uint8)))
    assert not is_flat(make_thumbnail(photograph(0)))


def draw(shape):
    picture = Image.new("RGB", (96, 96), "white")
    pen = ImageDraw.Draw(picture)
    shape(pen)
    return picture


SHAPES = {
    "b": lambda pen: (pen.rectangle((28, 10, 36, 86), fill="black"), pen.ellipse((30, 46, 70, 86), fill="black")),
    "d": lambda pen: (pen.rectangle((59, 10, 67, 86), fill="black"), pen.ellipse((25, 46, 65, 86), fill="black")),
    "disc": lambda pen: pen.ellipse((10, 10, 86, 86), fill="black"),
    "eye": lambda pen: (pen.ellipse((10, 10, 86, 86), fill="black"), pen.ellipse((40, 40, 56, 56), fill="white")),
    "blue": lambda pen: pen.ellipse((10, 10, 86, 86), fill="blue"),
    "square": lambda pen: pen.rectangle((10, 10, 86, 86), fill="black"),
    "left": lambda pen: pen.polygon(((80, 10), (80, 86), (12, 48)), fill="red"),
    "up": lambda pen: pen.polygon(((10, 80), (86, 80), (48, 12)), fill="red"),
}


def test_shapes_that_are_not_copies_are_not_grouped_but_for_the_mirror_image(tmp_path):
    for name, shape in SHAPES.items():
        save(tmp_path, f"{name}.png", draw(shape))
    found = search(tmp_path)
    assert groups_of(found) == [["b.png", "d.png"]]
    assert found.groups[0].mirrored
    assert groups_of(search(tmp_path, flips=False)) == []


def test_two_sides_are_compared_with_each_other_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in range(6):
        save(tmp_path, f"one/{number}.png", photograph(number))
        save(tmp_path, f"two/{number}.png", photograph(20 + number))
    save(tmp_path, "one/0 again.png", photograph(0), compress_level=0)  # twice in one: not asked for
    save(tmp_path, "two/3 too.jpg", photograph(3), quality=40)
    shutil.copy(tmp_path / "one/5.png", tmp_path / "two/9.png")
    found = search("one", "two")
    assert sorted(groups_of(found)) == [["one/3.png", "two/3 too.jpg"], ["one/5.png", "two/9.png"]]
    assert [group.kind for group in sorted(found.groups, key=lambda group: group.members)] == ["near", "bytes"]


def test_features_add_candidates_which_are_compared_like_others(planted, monkeypatch):
    images = load_dataset(DatasetChoice(str(planted)), "all")
    whole = {frozenset(group) for group in groups_of(search(planted))}
    monkeypatch.setattr("synco_hub.data.duplicates.find_candidates", lambda *given: [])
    vectors = np.random.default_rng(0).standard_normal((len(images), 8)).astype(np.float32)
    names = images.file_names()
    assert {frozenset(group) for group in groups_of(search(planted))} < whole  # by bytes and pixels
    for number in (2, 3, 4):
        source, copy = (
            next(k for k, name in enumerate(names) if stem in name)
            for stem in (f"/{number:02d}.", f"copy{number:02d}")
        )
        vectors[copy] = vectors[source]
    vectors[names.index("train/a/20.png")] = np.nan
    found = {frozenset(group) for group in groups_of(search(planted, vectors=vectors))}
    assert (
        {group for group in whole if any(f"copy{k:02d}" in name for name in group for k in range(5))} <= found <= whole
    )


def test_unreadable_files_are_named_and_skipped_up_to_a_share(tmp_path):
    for number in range(5):
        save(tmp_path, f"{number}.png", photograph(number))
    shutil.copy(tmp_path / "1.png", tmp_path / "6.png")
    (tmp_path / "5.png").write_bytes(b"no image")
    with pytest.raises(TooManyBadImagesError, match=r"5\.png"):
        search(tmp_path)
    found = search(tmp_path, max_bad_fraction=0.2)
    assert found.skipped == ["5.png"]
    assert groups_of(found) == [["1.png", "6.png"]]


def test_a_side_without_images_is_refused(tmp_path):
    save(tmp_path, "1.png", photograph(0))
    images = load_dataset(DatasetChoice(str(tmp_path)), "all")
    with pytest.raises(ValueError, match="no image"):
        find_duplicates([])
    with pytest.raises(ValueError, match="num_workers=0"):
        find_duplicates(images, num_workers=0)
    assert find_duplicates(images, progress=False).groups == []


def test_similarity_of_a_changed_place_is_one_less_the_changed_share_of_energy():
    """A closed form: where half of one place turns over, its similarity falls by what the definition says."""
    pixels = np.kron(np.random.default_rng(0).integers(0, 2, (8, 8)), np.ones((SIDE // 8, SIDE // 8)))
    first = (pixels[..., None].repeat(3, 2) * 200 + 20).astype(np.uint8)
    assert compare(first, first) == pytest.approx(1)
    assert compare(first, 255 - first) < 0.2
    noise = np.random.default_rng(1).integers(-8, 9, first.shape)
    noisy = (first + noise).astype(np.uint8)
    share = np.mean(noise.astype(float) ** 2) / (2 * first.astype(float).var())
    assert 1 - 12 * share < compare(first, noisy) < 1 - share / 12


def test_copies_are_of_the_sizes_and_sides_that_they_say():
    pixels = photograph(0)
    small, crop, resized = make_copies(pixels, np.random.default_rng(0))
    assert small.shape == pixels.shape
    assert crop.shape == (108, 144, 3)
    assert any(np.array_equal(crop, pixels[y : y + 108, x : x + 144]) for y in range(13) for x in range(17))
    assert 0.5 <= resized.shape[0] / 120 <= 2
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=40)
    np.testing.assert_array_equal(small, np.asarray(Image.open(stream)))
    thumbnails = [make_thumbnail(each) for each in (pixels, crop[:, ::-1])]
    assert is_mirrored(choose_variant(*thumbnails)[0])
    for one, other in combinations((pixels, small, crop, resized, crop[:, ::-1]), 2):
        assert compare(one, other) > 0.8


def test_the_threshold_is_what_most_copies_reach():
    found = calibrate((photograph(k) for k in range(6)), seed=0, flips=True)
    assert found.copies == 18
    assert 0.8 <= found.threshold <= 0.95
    assert found.recall >= 0.9
    assert found == calibrate((photograph(k) for k in range(6)), seed=0, flips=True)
    assert calibrate([], seed=0, flips=True).threshold == 0.95


def correlate(first, second):
    return float(np.corrcoef(np.ravel(first), np.ravel(second))[0, 1])


def test_a_tiny_picture_is_the_mean_brightness_of_its_places():
    for seed in range(5):
        pixels = photograph(seed, 96, 160)
        blocks = pixels.astype(np.float64).mean(axis=2).reshape(TINY_SIDE, 12, TINY_SIDE, 20).mean(axis=(1, 3))
        tiny = make_tiny_picture(make_thumbnail(pixels))
        assert tiny.nbytes == 32
        assert correlate(unpack_tiny_pictures(tiny[None]), blocks) > 0.98
        variants = make_tiny_variants(make_thumbnail(pixels))
        assert correlate(variants[0], blocks) > 0.999
        assert correlate(variants[len(variants) // 2], blocks[:, ::-1]) > 0.999
    assert not unpack_tiny_pictures(make_tiny_picture(np.full((SIDE, SIDE, 3), 9, np.uint8))[None]).any()


def test_windows_of_a_tiny_picture_are_tiny_pictures_of_windows():
    pixels = photograph(1, 200, 200)
    cut = list(cut_tiny_pictures(unpack_tiny_pictures(make_tiny_picture(make_thumbnail(pixels))[None])))
    assert len(cut) == 9
    for windows, (left, top) in zip(cut, [(x, y) for x in (0, 10, 20) for y in (0, 10, 20)], strict=True):
        seen = np.ascontiguousarray(pixels[top : top + 180, left : left + 180])
        assert correlate(windows[0], make_tiny_variants(make_thumbnail(seen))[0]) > 0.85
