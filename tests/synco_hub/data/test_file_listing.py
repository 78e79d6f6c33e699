import pickle
from pathlib import Path

import pytest

from synco_hub.data.file_listing import NameTable, image_files, is_image_name, subfolders


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_images_at_any_depth_in_sorted_order(tmp_path: Path) -> None:
    touch(tmp_path, "b/2.png", "b/10.PNG", "a/x/y/z.JpEg", "top.webp", "a/readme.txt", "a/noextension", "c/d/e.tiff")
    assert image_files(tmp_path) == ["a/x/y/z.JpEg", "b/10.PNG", "b/2.png", "c/d/e.tiff", "top.webp"]


def test_hidden_files_and_folders_are_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "a/._1.jpg", "a/1.jpg", ".thumbnails/2.jpg", "a/.hidden/3.jpg", ".jpg")
    assert image_files(tmp_path) == ["a/1.jpg"]
    assert subfolders(tmp_path) == ["a"]
    assert not is_image_name(".jpg")


def test_links_are_followed_once_and_loops_end(tmp_path: Path) -> None:
    touch(tmp_path, "store/1.jpg", "data/cats/2.jpg")
    data = tmp_path / "data"
    (data / "dogs").symlink_to(tmp_path / "store", target_is_directory=True)
    (data / "cats" / "up").symlink_to(data, target_is_directory=True)
    (data / "cats" / "again").symlink_to(data / "cats", target_is_directory=True)
    (data / "broken.jpg").symlink_to(tmp_path / "nowhere.jpg")
    assert image_files(data) == ["broken.jpg", "cats/2.jpg", "dogs/1.jpg"]
    assert subfolders(data) == ["cats", "dogs"]


def test_two_links_to_one_folder_are_two_classes(tmp_path: Path) -> None:
    touch(tmp_path, "store/1.jpg")
    for name in ("a", "b"):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / name).symlink_to(tmp_path / "store", target_is_directory=True)
    assert image_files(tmp_path / "data") == ["a/1.jpg", "b/1.jpg"]


def test_a_name_table_is_a_list_of_strings() -> None:
    names = ["", "a", "Käfer/Bild 1.jpg", "\udcff.png", "", "z" * 300]
    table = NameTable(names)
    assert list(table) == names
    assert len(table) == 6
    assert table[-1] == names[-1]
    assert list(pickle.loads(pickle.dumps(table))) == names
    with pytest.raises(IndexError):
        table[6]
    assert len(NameTable([])) == 0
