"""What lies in a folder: images by name or content, and every other kind counted."""

import os
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image, ImageFile

from synco_hub.data import decoding
from synco_hub.data.folder_files import (
    FolderFiles,
    explain_file,
    has_images,
    is_image_name,
    list_image_files,
    list_subfolders,
)
from synco_hub.data.image_folder import load_image_folder
from synco_hub.data.loading import load_dataset


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_images_at_any_depth_in_sorted_order(tmp_path: Path) -> None:
    touch(tmp_path, "b/2.png", "b/10.PNG", "a/x/y/z.JpEg", "top.webp", "a/readme.txt", "a/noextension", "c/d/e.tiff")
    assert list_image_files(tmp_path) == ["a/x/y/z.JpEg", "b/10.PNG", "b/2.png", "c/d/e.tiff", "top.webp"]


def test_hidden_files_and_folders_are_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "a/._1.jpg", "a/1.jpg", ".thumbnails/2.jpg", "a/.hidden/3.jpg", ".jpg")
    assert list_image_files(tmp_path) == ["a/1.jpg"]
    assert list_subfolders(tmp_path) == ["a"]
    assert not is_image_name(".jpg")


def test_links_are_followed_once_and_loops_end(tmp_path: Path) -> None:
    touch(tmp_path, "store/1.jpg", "data/cats/2.jpg")
    data = tmp_path / "data"
    (data / "dogs").symlink_to(tmp_path / "store", target_is_directory=True)
    (data / "cats" / "up").symlink_to(data, target_is_directory=True)
    (data / "cats" / "again").symlink_to(data / "cats", target_is_directory=True)
    (data / "broken.jpg").symlink_to(tmp_path / "nowhere.jpg")
    assert list_image_files(data) == ["broken.jpg", "cats/2.jpg", "dogs/1.jpg"]
    assert list_subfolders(data) == ["cats", "dogs"]


def test_two_links_to_one_folder_are_two_classes(tmp_path: Path) -> None:
    touch(tmp_path, "store/1.jpg")
    for name in ("a", "b"):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / name).symlink_to(tmp_path / "store", target_is_directory=True)
    assert list_image_files(tmp_path / "data") == ["a/1.jpg", "b/1.jpg"]


def png(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (3, 2)).save(path, "PNG")
    return path


def test_files_without_an_extension_are_known_by_their_first_bytes(tmp_path: Path) -> None:
    for number, kind in enumerate(("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP")):
        Image.new("RGB", (3, 2), (number, 0, 0)).save(tmp_path / kind, kind)
    (tmp_path / "Makefile").write_text("all:")
    (tmp_path / "BMW").write_text("BMW is a make of cars")
    os.mkfifo(tmp_path / "pipe")
    assert list_image_files(tmp_path) == ["BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP"]
    images = load_image_folder(tmp_path)
    assert [images.load_image(k).size for k in range(6)] == [(3, 2)] * 6


def test_what_pillow_reads_of_itself_is_read(tmp_path: Path) -> None:
    for number, name in enumerate(("a.tga", "b.pcx", "c.sgi", "d.dds", "e.qoi", "f.dib")):
        Image.new("RGB", (3, 2), (10 * number, 0, 0)).save(tmp_path / name)
    Image.new("RGB", (3, 2)).save(tmp_path / "g.apng", "PNG", save_all=True, append_images=[Image.new("RGB", (3, 2))])
    images = load_image_folder(tmp_path)
    assert list(images.names) == ["a.tga", "b.pcx", "c.sgi", "d.dds", "e.qoi", "f.dib", "g.apng"]
    assert [images.load_pixels(k)[0, 0, 0] for k in range(6)] == [0, 10, 20, 30, 40, 50]


def test_no_image_is_overlooked_below_a_hidden_folder(tmp_path: Path) -> None:
    png(tmp_path / ".cache" / "photos" / "1.png")
    assert has_images(tmp_path / ".cache" / "photos")
    assert not has_images(tmp_path)


def test_other_kinds_are_counted_with_their_remedy(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    png(tmp_path / "a" / "1.png")
    touch(tmp_path, *(f"a/{k}.HEIC" for k in range(12)), "a/x.txt", "b/y.txt", "photos.zip", "more.tar.gz", "ids")
    touch(tmp_path, "train-images-idx3-ubyte.gz", "README.md", "LICENSE", "Thumbs.db", ".DS_Store", "t.parquet")
    files = FolderFiles.of(tmp_path)
    assert files.others == {
        ".heic": 12,
        ".txt": 2,
        ".zip": 1,
        ".tar.gz": 1,
        "without extension": 1,
        ".idx": 1,
        ".parquet": 1,
    }
    load_image_folder(tmp_path)
    load_image_folder(tmp_path, "all")
    said = [line for line in caplog.messages if "files are not read" in line]
    assert len(said) == 1
    assert "19 files are not read: 12 .heic (pip install pillow-heif), 2 .txt, " in said[0]
    assert "1 .zip (unpack)" in said[0]
    assert "file_name and label of metadata.csv" in FolderFiles([], [], Counter({".csv": 1})).describe_others()
    assert "one of the classes of these images is called metadata.parquet" in said[0]


def test_a_folder_of_other_kinds_says_what_lies_there(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{k}.heic" for k in range(3)), "old.zip")
    with pytest.raises(
        ValueError, match=r"no image was found among 3 \.heic \(pip install pillow-heif\), 1 \.zip \(unpack\)"
    ):
        load_image_folder(tmp_path)


class ToyFormat(ImageFile.ImageFile):
    """A format that a package other than Pillow opens."""

    format = "TOY"

    def _open(self) -> None:
        self._size, self._mode, self.tile = (1, 1), "RGB", []

    def load(self) -> None:
        self.im = Image.new("RGB", (1, 1), (7, 8, 9)).im


def test_a_package_that_teaches_pillow_a_format_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPEN", "EXTENSION"):
        monkeypatch.setattr(Image, name, dict(getattr(Image, name)))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    module = ModuleType("pillow_heif")

    def register_heif_opener() -> None:
        Image.register_open("TOY", ToyFormat, lambda prefix: prefix.startswith(b"toy"))
        Image.register_extensions("TOY", [".heic", ".hif"])

    module.register_heif_opener = register_heif_opener  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pillow_heif", module)
    decoding.register_plugins.cache_clear()
    (tmp_path / "1.HEIC").write_bytes(b"toy")
    try:
        images = load_image_folder(tmp_path)
        assert images.load_image(0).getpixel((0, 0)) == (7, 8, 9)
    finally:
        decoding.register_plugins.cache_clear()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("photos.zip", "is an archive; unpack it"),
        ("photos.tar.gz", "is an archive; unpack it"),
        ("cats.parquet", "is one .parquet file; a table is named by its folder: give {folder}"),
        ("cats.tar", "is one .tar file; a table is named by its folder: give {folder}"),
        ("1.png", "is one image; give the folder that it lies in, {folder}"),
        ("list.txt", "is a .txt file, no folder"),
        ("1.heic", r"is a .heic file \(pip install pillow-heif\), no folder"),
    ],
)
def test_a_file_in_place_of_a_folder(tmp_path: Path, name: str, message: str) -> None:
    touch(tmp_path, name)
    with pytest.raises(ValueError, match=message.format(folder=tmp_path)):
        load_dataset(tmp_path / name)


def test_a_table_beside_others_needs_a_folder_of_its_own(tmp_path: Path) -> None:
    touch(tmp_path, "a.parquet", "b.parquet")
    assert f"give a folder of its own with it alone, not {tmp_path}" in explain_file(tmp_path / "a.parquet")
