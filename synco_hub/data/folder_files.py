"""What lies in a folder: which files are images, and what the others are, so that none vanishes without a word."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from synco_hub.data.decoding import register_plugins

# What version 0.1 read: runs that it began go on with these.
VERSION_0_1_EXTENSIONS = frozenset(
    ".avif .bmp .gif .jfif .jp2 .jpe .jpeg .jpg .pbm .pgm .png .ppm .tif .tiff .webp".split()  # noqa: SIM905
)
# Icons, Photoshop's masters and documents lie beside images more often than they are some.
IMAGE_EXTENSIONS = VERSION_0_1_EXTENSIONS | frozenset(
    ".apng .avifs .dds .dib .icb .j2c .j2k .jpc .jpf .jpx .mpo .pcx .pfm .pnm .qoi .ras .sgi .tga .vda .vst".split()  # noqa: SIM905
)
METADATA_FILES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
TABLE_EXTENSIONS = (".parquet", ".arrow", ".tar")
_PLUGIN_EXTENSIONS = {
    **dict.fromkeys((".heic", ".heics", ".heif", ".heifs", ".hif"), "pillow-heif"),
    ".jxl": "pillow-jxl-plugin",
}
_ARCHIVES = (".zip", ".tgz", ".7z", ".rar", ".gz", ".bz2", ".xz", ".zst")
_RAW = (".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2")
_DRAWINGS = (".svg", ".eps", ".ps", ".pdf", ".psd", ".xcf", ".ai", ".ico", ".icns")
_VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg")
_ARRAYS = (".npy", ".npz", ".mat", ".h5", ".hdf5", ".pkl", ".pt", ".dcm", ".nii", ".fits", ".idx")
_REMEDIES = {
    **{extension: f"pip install {package}" for extension, package in _PLUGIN_EXTENSIONS.items()},
    **dict.fromkeys(
        TABLE_EXTENSIONS,
        "tables: give a folder that holds them and no image files; one of the classes of these images is called "
        "metadata.parquet and has the columns file_name and label",
    ),
    **dict.fromkeys(
        (".csv", ".jsonl"), "classes of images are read from the columns file_name and label of metadata.csv or .jsonl"
    ),
    **dict.fromkeys((*_ARCHIVES, ".tar.gz"), "unpack"),
    **dict.fromkeys((*_RAW, *_DRAWINGS), "save as PNG or JPEG"),
    **dict.fromkeys(_ARRAYS, "arrays: save as PNG, or as a parquet table"),
    **dict.fromkeys(_VIDEOS, "save frames as JPEG"),
}
_NO_EXTENSION = "without extension"
# What every download brings along, and nobody takes for images.
_COMPANIONS = ("readme", "license", "licence", "copying", "thumbs.db", "desktop.ini")
_HEADER_BYTES = 16


def is_image_name(name: str) -> bool:
    """Whether a file name is not hidden and has, in any case, an extension that is read.

    Beside `IMAGE_EXTENSIONS` these are the extensions that a package other than Pillow has registered with Pillow.
    """
    extension = os.path.splitext(name)[1].lower()
    return not name.startswith(".") and (extension in IMAGE_EXTENSIONS or _is_opened_by_plugin(extension))


def _is_opened_by_plugin(extension: str) -> bool:
    if extension in _PLUGIN_EXTENSIONS:
        register_plugins()
    factory, _ = Image.OPEN.get(Image.EXTENSION.get(extension, ""), (None, None))
    return factory is not None and not factory.__module__.startswith("PIL.")


def list_subfolders(folder: Path) -> list[str]:
    """Names of the visible folders (and links to folders) directly in a folder, sorted."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def list_image_files(folder: Path) -> list[str]:
    """All images below a folder: sorted paths relative to it with `/` between their parts, hidden ones left out.

    Files are known by their extension, those without one by their first bytes. Links are followed, except where one
    leads back into a folder that contains it.
    """
    return FolderFiles.of(folder).images


def has_images(folder: Path, by_name: bool = False) -> bool:
    """Whether there is an image file at any depth, by name: one with an extension; stops at the first one."""
    for path, name in _walk(os.fspath(folder), "", ()):
        file = name.rsplit("/", 1)[-1]
        if is_image_name(file) if by_name else _is_image(path, file):
            return True
    return False


@dataclass(frozen=True)
class FolderFiles:
    """The visible files below a folder.

    Attributes:
        images: Sorted paths relative to the folder, with `/` between their parts.
        metadata: Files that say of images what class they have, as the `datasets` library names them.
        others: How many files of each other kind there are; companions such as a README are none.
    """

    images: list[str]
    metadata: list[str]
    others: Counter[str]

    @classmethod
    def of(cls, folder: Path, extensions: Collection[str] | None = None) -> FolderFiles:
        """Walks the folder once; with `extensions`, in lower case, images are the files that have one of them."""
        images, metadata, others = [], [], Counter[str]()
        for path, name in _walk(os.fspath(folder), "", ()):
            last = name.rsplit("/", 1)[-1]
            known = extensions is not None and os.path.splitext(last)[1].lower() in extensions
            if known or (extensions is None and _is_image(path, last)):
                images.append(name)
            elif last in METADATA_FILES:
                metadata.append(name)
            elif (kind := _find_kind(name)) is not None:
                others[kind] += 1
        return cls(sorted(images), sorted(metadata), others)

    def describe_others(self) -> str:
        """Their kinds with counts and what makes them readable: `12 .heic (pip install pillow-heif), 3 .txt`."""
        kinds = [(count, kind, _REMEDIES.get(kind)) for kind, count in self.others.most_common()]
        return ", ".join(f"{count} {kind}" + (f" ({remedy})" if remedy else "") for count, kind, remedy in kinds)


def explain_file(path: Path) -> str:
    """What a file is that was given in place of a folder, and how its images can be given."""
    kind, folder = _find_kind(path.name) or path.suffix or _NO_EXTENSION, path.parent
    if _is_image(os.fspath(path), path.name):
        return f"{path} is one image; give the folder that it lies in, {folder}."
    if kind in TABLE_EXTENSIONS:
        others = sum(entry.suffix == path.suffix for entry in folder.iterdir())
        alone = "" if others == 1 and not has_images(folder) else "a folder of its own with it alone, not "
        return f"{path} is one {kind} file; a table is named by its folder: give {alone}{folder}."
    if _REMEDIES.get(kind) == "unpack":
        return f"{path} is an archive; unpack it, and give the folder that it becomes."
    remedy = f" ({_REMEDIES[kind]})" if kind in _REMEDIES else ""
    return f"{path} is a {kind} file{remedy}, no folder; give a folder of images, or of parquet, arrow or .tar files."


def _is_image(path: str, name: str) -> bool:
    if is_image_name(name):
        return True
    # A pipe without a writer would be waited for.
    return (
        not name.startswith(".") and not os.path.splitext(name)[1] and os.path.isfile(path) and _begins_as_image(path)
    )


def _begins_as_image(path: str) -> bool:
    """Whether a file begins as JPEG, PNG, GIF, WebP, TIFF or BMP do."""
    try:
        with open(path, "rb") as stream:
            header = stream.read(_HEADER_BYTES)
    except OSError:
        return False
    if header.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")):
        return True
    is_bitmap = header.startswith(b"BM") and header[6:10] == bytes(4)
    return is_bitmap or (header.startswith(b"RIFF") and header[8:12] == b"WEBP")


def _find_kind(name: str) -> str | None:
    """The extension that a summary counts a file under; None for a companion."""
    last = name.rsplit("/", 1)[-1].lower()
    stem, extension = os.path.splitext(last)
    if extension == ".md" or last.startswith(_COMPANIONS):
        return None
    if "-ubyte" in last:
        return ".idx"
    if stem.endswith(".tar"):
        return ".tar.gz" if extension == ".gz" else extension
    return extension or _NO_EXTENSION


def _walk(folder: str, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[tuple[str, str]]:
    """Path and name below the first folder of every visible file."""
    status = os.stat(folder)
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _walk(entry.path, f"{prefix}{entry.name}/", (*above, identity))
            else:
                yield entry.path, prefix + entry.name
