"""Every set as its archives unpack, and what damaged or exchanged files of them say."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from data_trees.original import WRITERS, put, write_original

from synco_hub.data.catalog.row import Layout
from synco_hub.data.catalog.sets import CATALOG
from synco_hub.data.class_lists import read_class_list
from synco_hub.data.decoding import UnreadableImageError
from synco_hub.data.loading import load_dataset
from synco_hub.data.original import (
    READERS,
    LayoutNotFoundError,
    _find_indices,
    _locate,
    _read_lines,
    _read_matlab,
    _require_located,
    read_cifar,
    read_dtd,
    read_fgvc_aircraft,
    read_flowers102,
    read_food101,
    read_oxford_pets,
    read_stanford_cars,
    read_sun397,
    read_voc2007,
)
from synco_hub.settings import DatasetChoice


def test_every_set_with_files_has_a_way_to_read_them_and_a_tree():
    without_files = {"imagenet-w", "imagenet-1pct", "imagenet-10pct", "fractals"}
    assert set(WRITERS) == set(CATALOG) - without_files
    assert set(READERS) == {name for name in WRITERS if CATALOG[name].layout is Layout.other}


@pytest.mark.parametrize("name", WRITERS)
def test_a_tree_as_the_archives_unpack(name: str, tmp_path: Path):
    tree, row = write_original(name, tmp_path / "files", seed=5), CATALOG[name]
    for split in row.splits:
        images = load_dataset(DatasetChoice(name, data_dir=str(tree.root)), split)
        assert (images.num_classes, images.description.name, images.description.split) == (
            row.num_classes,
            name,
            split,
        )
        found = images.labels if images.multi_hot is None else images.multi_hot
        assert np.asarray(found).tolist() == tree.labels[split]
        for index, grey in enumerate(tree.greys.get(split, [])):
            assert abs(images.load_image(index).getpixel((3, 3))[0] - grey) <= 2, images.name(index)


@pytest.mark.parametrize("name", sorted(READERS))
def test_train_and_test_have_other_images_and_fingerprints(name: str, tmp_path: Path):
    write_original(name, tmp_path, seed=6)
    train, test = (load_dataset(DatasetChoice(name, data_dir=str(tmp_path)), split) for split in ("train", "test"))
    if name != "stanford-cars":  # its two folders number their files alike
        assert not set(train.file_names()) & set(test.file_names())
    assert train.description.fingerprint != test.description.fingerprint
    assert train.class_names == test.class_names


@pytest.mark.parametrize("name", sorted(READERS))
def test_an_empty_folder_says_what_belongs_there(name: str, tmp_path: Path):
    with pytest.raises(ValueError, match=f"{name} is read as its archives unpack .*parquet files"):
        load_dataset(DatasetChoice(name, data_dir=str(tmp_path)), "train")


def test_the_folder_given_or_up_to_two_below(tmp_path: Path):
    (tmp_path / "a/b/c").mkdir(parents=True)
    (tmp_path / "a/b/mark").touch()
    (tmp_path / "a/b/c/deep").touch()
    for start in (tmp_path, tmp_path / "a", tmp_path / "a/b"):
        assert _locate(start, "mark", "c") == tmp_path / "a/b"
    assert _locate(tmp_path, "deep") is None
    with pytest.raises(LayoutNotFoundError, match="deep and mark of Something were not found"):
        _require_located(tmp_path, "Something", "deep", "mark")


def test_lines_of_lists(tmp_path: Path):
    (tmp_path / "list").write_bytes("one \r\n\r\n two\nÜ".encode())
    assert _read_lines(tmp_path / "list") == ["one", "two", "Ü"]
    for content, message in ((b"\n \n", "the list is empty"), (b"\xff\xfe\x00a", "it is no text")):
        (tmp_path / "list").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            _read_lines(tmp_path / "list")


def test_labels_of_class_names():
    assert _find_indices(["b", "a", "b"], ["a", "b"], Path("x")) == [1, 0, 1]
    with pytest.raises(ValueError, match="'a' is named twice"):
        _find_indices([], ["a", "b", "a"], Path("x"))
    with pytest.raises(ValueError, match=r"2 classes are not .* \(c, d\)"):
        _find_indices(["c", "a", "d"], ["a", "b"], Path("x"))


def test_labels_that_do_not_belong_to_the_pets(tmp_path: Path):
    write_original("oxford-pets", tmp_path)
    file = tmp_path / "annotations/test.txt"
    lines = file.read_text().split("\n")
    first, second = lines[0].split(), lines[1].split()
    lines[0] = " ".join([first[0], second[1], *first[2:]])
    file.write_text("\n".join(lines))
    with pytest.raises(ValueError, match="labels and images do not belong together"):
        read_oxford_pets(tmp_path, "train")


@pytest.mark.parametrize(
    ("line", "message"), [("cat_1 1 1", "has 3 fields, not 4"), ("cat_1 0 1 1", "'0' is no whole")]
)
def test_damaged_lines(line: str, message: str, tmp_path: Path):
    write_original("oxford-pets", tmp_path)
    put(tmp_path / "annotations/test.txt", line)
    with pytest.raises(ValueError, match=message):
        read_oxford_pets(tmp_path, "test")


def test_food_without_a_list_of_classes_takes_those_of_the_training_images(tmp_path: Path):
    write_original("food101", tmp_path)
    (tmp_path / "food-101/meta/classes.txt").unlink()
    found = read_food101(tmp_path, "train")
    assert list(found.class_names) == sorted({name.split("/")[0] for name in found.names})


def test_another_partition_of_dtd_is_another_split(tmp_path: Path):
    write_original("dtd", tmp_path)
    assert set(read_dtd(tmp_path, "test", 2).names) != set(read_dtd(tmp_path, "test").names)
    assert "partition 2" in read_dtd(tmp_path, "test", 2).rule


def test_a_variant_that_is_none(tmp_path: Path):
    write_original("fgvc-aircraft", tmp_path)
    put(tmp_path / "fgvc-aircraft-2013b/data/images_variant_test.txt", "0000001 Zeppelin NT\n")
    with pytest.raises(ValueError, match=r"1 classes are not in the set's list of classes \(Zeppelin NT\)"):
        read_fgvc_aircraft(tmp_path, "test")
    put(tmp_path / "fgvc-aircraft-2013b/data/images_variant_test.txt", "0000001\n")
    with pytest.raises(ValueError, match="not an image and its variant"):
        read_fgvc_aircraft(tmp_path, "test")


def test_sun_reads_lists_among_the_images_too(tmp_path: Path):
    tree = write_original("sun397", tmp_path)
    for file in (tmp_path / "Partitions").iterdir():
        file.rename(tmp_path / "SUN397" / file.name)
    found = read_sun397(tmp_path / "SUN397", "train")
    assert list(found.labels) == tree.labels["train"]
    assert found.class_names[1] == "apse/indoor"


def test_an_image_that_is_not_there_is_an_unreadable_one(tmp_path: Path):
    write_original("food101", tmp_path)
    images = load_dataset(DatasetChoice("food101", data_dir=str(tmp_path)), "test")
    for position, content in ((0, None), (1, b""), (2, b"\xff\xd8\xff cut off")):
        path = tmp_path / "food-101/images" / images.name(position)
        path.unlink() if content is None else path.write_bytes(content)
        with pytest.raises(UnreadableImageError, match=images.name(position)):
            images.load_image(position)
    assert images.load_image(3).mode == "RGB"


def test_flowers_train_on_both_halves_and_count_from_one(tmp_path: Path):
    write_original("flowers102", tmp_path, seed=3)
    sets, labels = (scipy.io.loadmat(tmp_path / name, squeeze_me=True) for name in ("setid.mat", "imagelabels.mat"))
    for split, ids in (("train", [*sets["trnid"], *sets["valid"]]), ("test", sets["tstid"])):
        found = read_flowers102(tmp_path, split)
        assert list(found.names) == [f"image_{number:05d}.jpg" for number in ids]
        assert list(found.labels) == [int(labels["labels"][number - 1]) - 1 for number in ids]
    assert found.class_names[76] == "passion flower"


def test_flowers_of_two_sets(tmp_path: Path):
    write_original("flowers102", tmp_path)
    scipy.io.savemat(tmp_path / "imagelabels.mat", {"labels": np.ones((1, 3), dtype=np.uint8)})
    with pytest.raises(ValueError, match=r"imagelabels\.mat has 3; the two files are of different sets"):
        read_flowers102(tmp_path, "train")
    scipy.io.savemat(tmp_path / "setid.mat", {"trnid": "text"})
    with pytest.raises(ValueError, match="no numbers named trnid"):
        read_flowers102(tmp_path, "train")


def test_cars_need_the_labels_of_the_test_images(tmp_path: Path):
    tree = write_original("stanford-cars", tmp_path)
    (tmp_path / "cars_test_annos_withlabels.mat").rename(tmp_path / "devkit/cars_test_annos_withlabels.mat")
    assert list(read_stanford_cars(tmp_path, "test").labels) == tree.labels["test"]
    (tmp_path / "devkit/cars_test_annos_withlabels.mat").unlink()
    with pytest.raises(ValueError, match="the other files have no test labels"):
        read_stanford_cars(tmp_path, "test")
    rows = np.empty((1, 1), dtype=[("fname", object)])
    rows[0, 0] = ("00001.jpg",)
    scipy.io.savemat(tmp_path / "devkit/cars_test_annos_withlabels.mat", {"annotations": rows})
    with pytest.raises(ValueError, match="no annotations with classes"):
        read_stanford_cars(tmp_path, "test")


def test_one_car_and_a_name_of_any_language(tmp_path: Path):
    rows = np.empty((1, 1), dtype=[("class", object), ("fname", object)])
    rows[0, 0] = (np.uint8(200), "Größe 1.jpg")
    for part in ("train", "test"):
        (tmp_path / f"cars_{part}").mkdir()
    (tmp_path / "devkit").mkdir()
    scipy.io.savemat(tmp_path / "devkit/cars_train_annos.mat", {"annotations": rows}, do_compression=True)
    names = np.array([f"Coupé {number}" for number in range(200)], dtype=object)
    scipy.io.savemat(tmp_path / "devkit/cars_meta.mat", {"class_names": names[None]})
    found = read_stanford_cars(tmp_path, "train")
    assert (found.names, found.labels, found.class_names[199]) == (["Größe 1.jpg"], [199], "Coupé 199")


def test_damaged_matlab_files_are_an_error_and_nothing_else(tmp_path: Path):
    rows = np.empty((1, 2), dtype=[("class", object), ("fname", object)])
    rows[0, 0], rows[0, 1] = (1, "a"), (2, "b")
    path, rng = tmp_path / "x.mat", np.random.default_rng(0)
    scipy.io.savemat(path, {"annotations": rows, "labels": np.arange(30, dtype=np.uint8)}, do_compression=True)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 8, 13):
        path.write_bytes(whole[:length])
        try:
            _read_matlab(path)
        except ValueError as error:
            assert "unpack the original archive again" in str(error)  # noqa: PT017
    for _ in range(300):
        damaged = bytearray(whole)
        for position in rng.integers(128, len(whole), 3):
            damaged[position] = rng.integers(0, 256)
        path.write_bytes(damaged)
        try:
            _read_matlab(path)
        except ValueError as error:
            assert "unpack the original archive again" in str(error)  # noqa: PT017


def test_another_kind_of_file_than_matlabs(tmp_path: Path):
    (tmp_path / "x.mat").write_bytes(b"\x89HDF" + bytes(500))
    with pytest.raises(ValueError, match=r"no readable MATLAB file .*; unpack the original archive again"):
        _read_matlab(tmp_path / "x.mat")


def test_pixels_are_stored_plane_by_plane(tmp_path: Path):
    write_original("cifar10", tmp_path)
    pixels = np.random.default_rng(1).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    content = {"data": pixels.transpose(0, 3, 1, 2).reshape(1, -1), "labels": [7], "filenames": ["horse.png"]}
    (tmp_path / "cifar-10-batches-py/test_batch").write_bytes(pickle.dumps(content))
    images = read_cifar("cifar10", tmp_path, "test")
    assert (np.asarray(images.load_image(0)) == pixels[0]).all()
    assert (images.name(0), images.labels.tolist(), images.class_names[7]) == ("horse.png", [7], "horse")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"data": np.zeros((1, 3072)), "labels": [1]}, "data is no array of 3072 bytes"),
        ({"data": np.zeros((1, 99), dtype=np.uint8), "labels": [1]}, "data is no array of 3072 bytes"),
        ({"data": np.zeros((1, 3072), dtype=np.uint8), "labels": [1, 2]}, "not one whole number an image"),
        ({"data": np.zeros((1, 3072), dtype=np.uint8), "labels": ["a"]}, "not one whole number an image"),
        ({"data": np.zeros((1, 3072), dtype=np.uint8), "labels": [10]}, "check the label column"),
    ],
)
def test_batches_of_another_kind(content: dict[str, object], message: str, tmp_path: Path):
    write_original("cifar10", tmp_path)
    (tmp_path / "cifar-10-batches-py/test_batch").write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=message):
        read_cifar("cifar10", tmp_path, "test")


def test_a_hundred_classes_take_the_fine_labels(tmp_path: Path):
    write_original("cifar100", tmp_path)
    assert read_cifar("cifar100", tmp_path, "train").labels.max() == 99
    (tmp_path / "cifar-100-python/meta").write_bytes(pickle.dumps({"names": []}))
    with pytest.raises(ValueError, match="no list fine_label_names"):
        read_cifar("cifar100", tmp_path, "train")


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps({"data": np.zeros(99)})[:-40]])
def test_damaged_batches(content: bytes, tmp_path: Path):
    write_original("cifar10", tmp_path)
    (tmp_path / "cifar-10-batches-py/test_batch").write_bytes(content)
    with pytest.raises(ValueError, match=r"test_batch is refused.*Unpack the original archive again\."):
        read_cifar("cifar10", tmp_path, "test")


def test_a_batch_that_is_no_dict(tmp_path: Path):
    write_original("cifar10", tmp_path)
    (tmp_path / "cifar-10-batches-py/test_batch").write_bytes(pickle.dumps([1]))
    with pytest.raises(ValueError, match="holds list, not a dict"):
        read_cifar("cifar10", tmp_path, "test")


NAMES = read_class_list("voc2007")


def test_annotations_say_what_the_lists_say(tmp_path: Path):
    tree = write_original("voc2007", tmp_path, seed=8)
    main = tmp_path / "VOCdevkit/VOC2007/ImageSets/Main"
    for split, part in (("train", "trainval"), ("test", "test")):
        by_lists = read_voc2007(tmp_path, split)
        (main / f"dog_{part}.txt").unlink()
        by_annotations = read_voc2007(tmp_path / "VOCdevkit", split)
        assert (by_lists.multi_hot == tree.labels[split]).all()
        assert (by_annotations.multi_hot == by_lists.multi_hot).all()
        assert ("Annotations" in by_annotations.rule, "Annotations" in by_lists.rule) == (True, False)
    values = np.unique(by_lists.multi_hot)
    assert values.tolist() == [-1, 0, 1]


def test_damaged_lists_and_annotations_of_voc(tmp_path: Path):
    write_original("voc2007", tmp_path)
    base = tmp_path / "VOCdevkit/VOC2007"
    put(base / "ImageSets/Main/cat_test.txt", "005001 2\n")
    with pytest.raises(ValueError, match="not an image and 1, 0 or -1"):
        read_voc2007(tmp_path, "test")
    put(base / "ImageSets/Main/cat_test.txt", "005001 1\n")
    with pytest.raises(ValueError, match="4 images of the split are not in it"):
        read_voc2007(tmp_path, "test")
    (base / "ImageSets/Main/cat_test.txt").unlink()
    put(base / "Annotations/005001.xml", "<annotation><object>")
    with pytest.raises(ValueError, match="not a readable annotation"):
        read_voc2007(tmp_path, "test")
    put(base / "Annotations/005001.xml", "<a><object><name>unicorn</name></object></a>")
    with pytest.raises(ValueError, match="'unicorn' is not among the 20 classes"):
        read_voc2007(tmp_path, "test")
