"""The shifted and corrupted ImageNets from a folder that holds several of them, or from their own."""

import os
from pathlib import Path

import pytest
from PIL import Image

from synco_hub.data import load_dataset
from synco_hub.data.catalog.loading import (
    find_corruption_folders,
    find_set_folder,
    load_known_images,
    require_every_class,
)
from synco_hub.data.catalog.sets import BENCHMARK_CORRUPTIONS, CATALOG
from synco_hub.data.class_lists import read_class_list
from synco_hub.data.folder_files import list_image_files
from synco_hub.settings import DatasetChoice

THOUSAND = read_class_list("imagenet_1k")
FOLDERS = {
    "imagenet-v2-matched-frequency": ("imagenetv2-matched-frequency-format-val", "0"),
    "imagenet-v2-threshold0.7": ("imagenetv2-threshold0.7-format-val", "10"),
    "imagenet-v2-top-images": ("imagenetv2-top-images-format-val", "100"),
    "imagenet-a": ("imagenet-a", read_class_list("imagenet_a")[5]),
    "imagenet-r": ("imagenet-r", read_class_list("imagenet_r")[7]),
    "imagenet-o": ("imagenet-o", read_class_list("imagenet_o")[9]),
    "imagenet-sketch": ("sketch", THOUSAND[11]),
    "imagenet-1k": ("imagenet/val", THOUSAND[13]),
}


def images(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(root / name)
    return root


@pytest.fixture
def archives(tmp_path: Path) -> Path:
    """Every archive unpacked in one folder, with one image each."""
    root = images(tmp_path / "archives", *(f"{folder}/{name}/x.png" for folder, name in FOLDERS.values()))
    return images(root, f"imagenet-c/weather/fog/3/{THOUSAND[2]}/x.png", f"imagenet-c/frost/3/{THOUSAND[4]}/x.png")


@pytest.mark.parametrize("name", FOLDERS)
def test_each_set_is_found_among_the_others(name: str, archives: Path) -> None:
    folder, class_name = FOLDERS[name]
    row = CATALOG[name]
    found = load_dataset(DatasetChoice(name, data_dir=str(archives)), "test")
    assert [found.name(index) for index in range(len(found))] == [f"{class_name}/x.png"]
    names = read_class_list(str(row.class_list))
    assert found.labels.tolist() == [int(class_name) if class_name.isdecimal() else names.index(class_name)]
    assert (found.class_names, found.description.name, found.description.split) == (list(names), name, "test")
    own = archives / folder.removesuffix("/val")
    assert find_set_folder(name, archives) == find_set_folder(name, own) == own
    again = load_dataset(DatasetChoice(name, data_dir=str(own)), "test")
    assert again.description == found.description


def test_another_name_of_a_folder_is_found_and_none_is_an_error_that_names_them(tmp_path: Path) -> None:
    wnid = read_class_list("imagenet_a")[0]
    assert (
        find_set_folder("imagenet-sketch", images(tmp_path / "s", "imagenet-sketch/n/x.png")).name == "imagenet-sketch"
    )
    assert find_set_folder("imagenet-w", images(tmp_path / "w", f"ILSVRC2012/val/{wnid}/x.png")).name == "ILSVRC2012"
    for name, looked_for in (
        ("imagenet-a", "imagenet-a/"),
        ("imagenet-1k", "imagenet/val/, imagenet-1k/val/, ILSVRC2012/val/, val/"),
        ("imagenet-w", "imagenet/val/"),
    ):
        # A folder of classes by another name could be of any of the sets.
        with pytest.raises(FileNotFoundError, match=f"{name} is not in .*: looked for {looked_for}"):
            find_set_folder(name, images(tmp_path / "other", f"{wnid}/x.png"))
    with pytest.raises(FileNotFoundError, match="imagenet-a is not in"):
        find_set_folder("imagenet-a", tmp_path / "nowhere" / "imagenet-a")


def test_the_test_images_of_imagenet_need_no_training_images(tmp_path: Path) -> None:
    wnids = [THOUSAND[3], THOUSAND[900]]
    root = images(tmp_path, *(f"imagenet/val/{wnid}/x.png" for wnid in wnids), "imagenet/devkit/readme.png")
    (root / "imagenet" / "test").mkdir()
    found = load_dataset(DatasetChoice("imagenet-1k", data_dir=str(root)), "test")
    assert found.labels.tolist() == [3, 900]
    with pytest.raises(ValueError, match="train/<class>/ beside"):
        load_dataset(DatasetChoice("imagenet-1k", data_dir=str(root)), "train")


def test_one_corruption_reads_one_folder_alone(archives: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []

    def listed(folder: Path) -> list[str]:
        read.append(folder)
        return list_image_files(folder)

    monkeypatch.setattr("synco_hub.data.catalog.loading.list_image_files", listed)
    for data_dir in (archives, archives / "imagenet-c"):
        for corruption, label, place in (("fog", 2, "weather/fog/3"), ("frost", 4, "frost/3")):
            choice = DatasetChoice("imagenet-c", data_dir=str(data_dir), config=f"{corruption}/3")
            found = load_dataset(choice, "test")
            assert (found.labels.tolist(), found.name(0)) == ([label], f"{THOUSAND[label]}/x.png")
            assert (found.description.name, found.num_classes) == ("imagenet-c", 1000)
            assert read.pop() == archives / "imagenet-c" / place
            assert read == []
    for config, message in (
        ("fog/6", "give <corruption>/<severity 1 to 5>, such as fog/3"),
        ("smog/3", "give <corruption>/<severity 1 to 5>"),
        ("fog", "give <corruption>/<severity 1 to 5>"),
        ("snow/1", "no folder snow/1 in it"),
    ):
        with pytest.raises(ValueError, match=message):
            load_dataset(DatasetChoice("imagenet-c", data_dir=str(archives), config=config), "test")


def test_every_folder_of_the_corruptions_is_there_or_all_missing_ones_are_named(tmp_path: Path) -> None:
    for number, name in enumerate(BENCHMARK_CORRUPTIONS):
        for severity in range(1, 6):
            above = ["", "noise/", "blur/"][number % 3]
            (tmp_path / f"ImageNet-C/{above}{name}/{severity}").mkdir(parents=True)
    found = find_corruption_folders(tmp_path)
    assert list(found) == [(name, severity) for name in BENCHMARK_CORRUPTIONS for severity in range(1, 6)]
    assert all((place.parent.name, int(place.name)) == key for key, place in found.items())
    assert list(find_corruption_folders(tmp_path / "ImageNet-C", ["fog"])) == [
        ("fog", severity) for severity in range(1, 6)
    ]
    for key in (("fog", 2), ("shot_noise", 5)):
        os.rmdir(found[key])
    with pytest.raises(ValueError, match=r"2 of the folders .* are missing: shot_noise/5, fog/2; unpack"):
        find_corruption_folders(tmp_path)
    assert len(find_corruption_folders(tmp_path, ["snow", "frost"])) == 10
    with pytest.raises(FileNotFoundError, match="imagenet-c is not in"):
        find_corruption_folders(tmp_path / "elsewhere")


def test_known_images_are_those_of_the_200_classes(tmp_path: Path) -> None:
    wnids = read_class_list("imagenet_o")
    others = [name for name in THOUSAND if name not in wnids][:3]
    root = images(tmp_path, *(f"imagenet/val/{name}/x.png" for name in (*others, *wnids)))
    for data_dir in (root, root / "imagenet"):
        known = load_known_images(data_dir)
        assert known.class_names == list(wnids)
        assert sorted(known.labels.tolist()) == list(range(200))
        assert all(known.name(index) == f"{wnids[known.labels[index]]}/x.png" for index in range(200))
    (root / f"imagenet/val/{wnids[17]}/x.png").unlink()
    with pytest.raises(ValueError, match=rf"imagenet/val: images of 199 of 200 classes, {wnids[17]} missing"):
        load_known_images(root)
    with pytest.raises(FileNotFoundError, match="imagenet-1k is not in"):
        load_known_images(tmp_path / "elsewhere")


def test_a_part_of_an_archive_is_refused_where_all_classes_count(tmp_path: Path) -> None:
    wnids = read_class_list("imagenet_r")
    root = images(tmp_path, *(f"imagenet-r/{name}/x.png" for name in wnids))
    choice = DatasetChoice("imagenet-r", data_dir=str(root))
    assert len(require_every_class(load_dataset(choice, "test"))) == 200
    for name in wnids[3:199]:
        (root / f"imagenet-r/{name}/x.png").unlink()
    some = ", ".join(wnids[3:8])
    with pytest.raises(ValueError, match=rf"imagenet-r: images of 4 of 200 classes, {some} … missing; unpack"):
        require_every_class(load_dataset(choice, "test"))
