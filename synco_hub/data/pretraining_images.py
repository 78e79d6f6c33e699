"""What images a model has learned from: of each a hash of its pixels and a tiny picture, kept beside the run.

The processes that decode the images of the first epoch write them as they go, each into a file of its own in a hidden
folder of the run; the run makes one file of them at its end. A hash of 64 bits is a certain match: among a million
training and a hundred thousand test images one in a hundred million searches meets two pictures of one hash. The tiny
picture, 8 × 8 levels of brightness, says which pictures are worth a closer look.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from synco_hub.atomic_write import atomic_write
from synco_hub.data.decoding import UnreadableImageError
from synco_hub.data.image_dataset import ImageDataset
from synco_hub.data.loading import FRACTALS, load_pretraining_images
from synco_hub.data.picture_matching import TINY_SIDE, make_thumbnail, make_tiny_picture
from synco_hub.settings import DatasetChoice

logger = logging.getLogger(__name__)

FINGERPRINTS_FILE = "pretraining_images.npz"
PARTS_FOLDER = ".pretraining_images"
_ABOUT = "about.json"
_RECORD = np.dtype([("index", "<i8"), ("hash", "<u8"), ("tiny", "u1", (TINY_SIDE**2 // 2,))])
# Images that no batch of the first epoch took are fewer than one batch; more are missing for another reason.
_READ_AT_THE_END = 8192


def hash_pixels(pixels: npt.NDArray[np.uint8]) -> bytes:
    """16 bytes that tell a picture from every other one, by its shape and its decoded pixels."""
    digest = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.digest()


def hash_content(content: bytes) -> bytes:
    """16 bytes that tell a file from every other one."""
    return hashlib.blake2b(content, digest_size=16).digest()


def make_fingerprint(index: int, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    """One record: the position of an image, its hash, its tiny picture."""
    number = int.from_bytes(hash_pixels(pixels)[:8], "little")
    return np.array([(index, number, make_tiny_picture(make_thumbnail(pixels)))], dtype=_RECORD)


@dataclass(frozen=True)
class PretrainingData:
    """Which images a run learned from, and how they are opened again.

    Attributes:
        name: As the user gave it.
        num_images: Of the data set, or of an epoch of a stream.
        fingerprint: Of the data set's description.
        choice: Fields of `DatasetChoice`, folders from the root.
        holdout: See `load_pretraining_images`.
        image_size: At which fractals are drawn.
        streamed: Whether positions are those of a stream's rows.
    """

    name: str
    num_images: int
    fingerprint: str
    choice: Mapping[str, Any]
    holdout: float | None = None
    image_size: int | None = None
    streamed: bool = False

    @classmethod
    def of(
        cls, images: ImageDataset, choice: DatasetChoice, holdout: float | None, image_size: int | None, streamed: bool
    ) -> Self:
        """Of the images that a run opened."""
        about = images.description
        values = {name: getattr(choice, name) for name in DatasetChoice.__dataclass_fields__}
        for name in ("dataset", "data_dir"):
            if values[name] is not None and Path(values[name]).expanduser().is_dir():
                values[name] = str(Path(values[name]).expanduser().resolve())
        return cls(about.name, about.num_images, about.fingerprint, values, holdout, image_size, streamed)

    @property
    def is_drawn(self) -> bool:
        """Whether the images are fractals, of which those of a class look alike and none is a copy."""
        dataset = str(self.choice["dataset"])
        return dataset.partition(":")[0] == FRACTALS and not Path(dataset).is_dir()

    def open(self) -> ImageDataset | None:
        """The images themselves, if they lie on this computer and are the same still."""
        choice = DatasetChoice(**self.choice)
        is_here = choice.data_dir is not None or Path(choice.dataset).is_dir()
        if self.streamed or not (is_here or self.is_drawn):
            return None
        try:
            recorded = {"fingerprint": self.fingerprint}
            images = load_pretraining_images(choice, self.holdout, image_size=self.image_size, recorded=recorded)
        except (ValueError, OSError, ImportError):
            return None
        return images if images.description.is_same_data(self.fingerprint) else None


class FingerprintRecorder:
    """Notes the images of the first epochs from whichever process decodes them.

    Args:
        folder: Of the run.
        num_epochs: Epochs after which every image has come.
    """

    def __init__(self, folder: Path, num_epochs: int = 1) -> None:
        self._parts, self._num_epochs = folder / PARTS_FOLDER, num_epochs
        self._file: Any = None
        self._process = -1

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None, "_process": -1}

    def begin(self, data: PretrainingData, resumes: bool) -> None:
        """Make place, and remove what another run left there."""
        if not resumes:
            shutil.rmtree(self._parts, ignore_errors=True)
            (self._parts.parent / FINGERPRINTS_FILE).unlink(missing_ok=True)
        self._parts.mkdir(exist_ok=True)
        with atomic_write(self._parts / _ABOUT) as unfinished:
            unfinished.write_text(json.dumps(asdict(data)) + "\n", encoding="utf-8")

    def note(self, epoch: int, index: int, pixels: npt.NDArray[np.uint8]) -> None:
        """Write one record; a disk that is full costs the records that are missing then, not the run."""
        if epoch >= self._num_epochs or self._num_epochs == 0:
            return
        try:
            if self._process != os.getpid():
                # A file of its own for each process that opens one: a record that a kill tore is its last.
                self._file = (self._parts / f"{secrets.token_hex(8)}.part").open("ab", buffering=0)
                self._process = os.getpid()
            self._file.write(make_fingerprint(index, pixels).tobytes())
        except OSError as error:
            self._num_epochs = 0
            logger.warning("fingerprints of the pretraining images are not kept any more: %s", error)

    def finish(self, images: ImageDataset | None) -> None:
        """Make one file of all parts; `images` gives those that no batch of the first epoch took."""
        try:
            found = PretrainingImages.read(self._parts.parent)
            if found is None:
                return
            if images is not None:
                found = found.complete(images)
            found.write(self._parts.parent / FINGERPRINTS_FILE)
            shutil.rmtree(self._parts, ignore_errors=True)
        except OSError as error:
            logger.warning("fingerprints of the pretraining images were not gathered in one file: %s", error)


@dataclass(frozen=True)
class PretrainingImages:
    """Fingerprints of the images that a model has learned from.

    Attributes:
        data: Which images these are.
        indices: Their positions. Shape: (images,).
        hashes: Of their pixels. Shape: (images,).
        tiny: Their tiny pictures, two levels a byte. Shape: (images, 32).
    """

    data: PretrainingData
    indices: npt.NDArray[np.int64]
    hashes: npt.NDArray[np.uint64]
    tiny: npt.NDArray[np.uint8]

    @classmethod
    def read(cls, folder: Path) -> PretrainingImages | None:
        """What a run keeps in its folder, also one that is not at its end; None where it keeps nothing.

        Raises:
            ValueError: If the file is damaged.
        """
        file, parts = folder / FINGERPRINTS_FILE, folder / PARTS_FOLDER
        kept = None
        try:
            if file.is_file():
                with np.load(file, allow_pickle=False) as arrays:
                    about = PretrainingData(**json.loads(str(arrays["about"])))
                    hashes = arrays["hashes"]
                    indices = arrays["indices"] if "indices" in arrays else np.arange(len(hashes))
                    kept = cls(about, indices, hashes, arrays["tiny"])
            if not (parts / _ABOUT).is_file():
                return kept
            about = PretrainingData(**json.loads((parts / _ABOUT).read_text(encoding="utf-8")))
        except (ValueError, KeyError, TypeError, OSError, EOFError, BadZipFile) as error:
            raise ValueError(f"{folder}: the fingerprints of its pretraining images are damaged ({error})") from None
        rows = [_read_part(part) for part in sorted(parts.glob("*.part"))]
        records = np.concatenate([np.empty(0, _RECORD), *rows])
        if kept is not None:
            records = np.concatenate([records, kept._records()])
        return cls._of_records(about, records)

    @classmethod
    def _of_records(cls, data: PretrainingData, records: npt.NDArray[Any]) -> PretrainingImages | None:
        indices, first = np.unique(records["index"], return_index=True)
        return cls(data, indices, records["hash"][first], records["tiny"][first]) if len(indices) else None

    def _records(self) -> npt.NDArray[Any]:
        records = np.empty(len(self), _RECORD)
        records["index"], records["hash"], records["tiny"] = self.indices, self.hashes, self.tiny
        return records

    def __len__(self) -> int:
        return len(self.indices)

    def complete(self, images: ImageDataset) -> PretrainingImages:
        """With the few images that are missing."""
        missing = np.setdiff1d(np.arange(len(images)), self.indices)
        if not 0 < len(missing) <= _READ_AT_THE_END:
            return self
        rows = [self._records()]
        for index in missing.tolist():
            try:
                rows.append(make_fingerprint(index, images.load_pixels(index)))
            except UnreadableImageError:
                continue
        completed = self._of_records(self.data, np.concatenate(rows))
        assert completed is not None
        return completed

    def write(self, file: Path) -> None:
        """Whole or not at all."""
        arrays = {"about": np.array(json.dumps(asdict(self.data))), "hashes": self.hashes, "tiny": self.tiny}
        if not np.array_equal(self.indices, np.arange(len(self))):
            arrays["indices"] = self.indices
        with atomic_write(file) as unfinished:
            np.savez(unfinished, allow_pickle=False, **arrays)  # type: ignore[arg-type]

    def take(self, places: npt.NDArray[np.int64]) -> PretrainingImages:
        """Some of them."""
        return replace(self, indices=self.indices[places], hashes=self.hashes[places], tiny=self.tiny[places])


def keeps_fingerprints(folder: Path) -> bool:
    """Whether a folder has fingerprints of pretraining images, gathered or in parts."""
    return (folder / FINGERPRINTS_FILE).is_file() or (folder / PARTS_FOLDER / _ABOUT).is_file()


def _read_part(part: Path) -> npt.NDArray[Any]:
    """The whole records of a part."""
    written = part.read_bytes()
    return np.frombuffer(written[: len(written) // _RECORD.itemsize * _RECORD.itemsize], _RECORD)
