"""Any data set as parquet files of a chosen size, which stream from many files at once where a folder is one.

Images keep their bytes. A run that is killed anywhere continues with the next file, and the files are the same: a
manifest says what is written so far, and of what.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from tqdm import tqdm

from synco_hub.atomic_write import atomic_write
from synco_hub.data.class_labels import share_class_names
from synco_hub.data.decoding import UnreadableImageError, decode_rgb
from synco_hub.data.folder_layout import printable
from synco_hub.data.image_dataset import UNLABELED, ImageDataset
from synco_hub.data.table_source import DIFFICULT_COLUMN, LABELS_COLUMN
from synco_hub.data.unreadable_images import UnreadableImages
from synco_hub.settings import DEFAULT_MAX_BAD_FRACTION

MANIFEST = "prepared.json"
_FORMAT = 1
_READ_TOGETHER = 64
_ROWS_A_GROUP = 100
_UNITS = {"kb": 1000, "mb": 1000**2, "gb": 1000**3, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}


@dataclass(frozen=True)
class Shard:
    """One parquet file.

    Attributes:
        file: Its name.
        after: Position in the source after its last image: where the next one begins.
        images: Images in it.
        skipped: Positions of the unreadable images before `after` and since the last shard.
    """

    file: str
    after: int
    images: int
    skipped: tuple[int, ...] = ()


@dataclass
class ShardManifest:
    """The state of a preparation.

    Attributes:
        source: Description of each split.
        settings: What else changes the files.
        shards: The files of each split that are whole.
        complete: Whether nothing is left to do.
    """

    source: dict[str, Any]
    settings: dict[str, Any]
    shards: dict[str, list[Shard]] = field(default_factory=dict)
    complete: bool = False

    def save(self, folder: Path) -> None:
        """Writes it whole or not at all."""
        with atomic_write(folder / MANIFEST) as temporary:
            temporary.write_text(json.dumps({"format": _FORMAT, **asdict(self)}, indent=2), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """Reads it; None where there is none. A damaged file, or one of another version, is refused."""
        path = folder / MANIFEST
        if not path.is_file():
            return None
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if values.pop("format") != _FORMAT:
                raise ValueError("it is of another version")
            parts = values.pop("shards")
            shards = {
                split: [Shard(**{**each, "skipped": tuple(each["skipped"])}) for each in entries]
                for split, entries in parts.items()
            }
            return cls(shards=shards, **values)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path}: not a manifest of prepared shards ({error}); give an empty folder.") from error


def require_complete(folder: Path) -> None:
    """Refuses to read a folder in which a preparation was killed, or from which shards are missing."""
    manifest = ShardManifest.load(folder)
    if manifest is None:
        return
    files = [shard.file for shards in manifest.shards.values() for shard in shards if shard.images]
    missing = [file for file in files if not (folder / file).is_file()]
    if not manifest.complete or missing:
        state = f"{missing[0]} is missing" if missing else "its preparation was stopped"
        raise ValueError(
            f"{folder}: {state}; run the same `synco-hub data prepare` again, which continues, before it is read."
        )


@dataclass(frozen=True)
class PreparationSettings:
    """How files are written.

    Attributes:
        shard_bytes: Size that a file has at least, but for the last one: it ends with the image that reaches it.
        num_workers: Threads that read and check images.
        max_bad_fraction: Share of images that may be unreadable.
        progress: Show a progress bar.
    """

    shard_bytes: int = 256 * 1000**2
    num_workers: int = 4
    max_bad_fraction: float = DEFAULT_MAX_BAD_FRACTION
    progress: bool = True

    def __post_init__(self) -> None:
        if self.shard_bytes < 1 or self.num_workers < 1:
            raise ValueError(f"shard size {self.shard_bytes}, {self.num_workers} workers: both are at least 1.")


@dataclass(frozen=True)
class PreparedSplit:
    """What a split became: number of images and files, the names of the images that were left out, and why."""

    images: int
    files: int
    skipped: tuple[str, ...]
    reasons: str = ""


def parse_bytes(size: str) -> int:
    """Reads a size such as `256MB` or `1GiB`, or a plain number of bytes."""
    text = size.strip().lower()
    unit = next((unit for unit in ("kib", "mib", "gib", "kb", "mb", "gb") if text.endswith(unit)), "")
    number = text.removesuffix(unit).strip()
    try:
        count = int(float(number) * _UNITS.get(unit, 1))
    except (ValueError, OverflowError):
        count = 0
    if count < 1:
        raise ValueError(f"shard size {size!r}: give a number above 0 with KB, MB or GB, such as 256MB.")
    return count


def prepare_dataset(
    splits: Mapping[str, ImageDataset], output: Path, settings: PreparationSettings | None = None
) -> dict[str, PreparedSplit]:
    """Writes splits as `<split>-00000.parquet`, `<split>-00001.parquet`, … beside a manifest.

    One class an image becomes a column `label` with the class names; several classes a column `labels` of lists, and
    `difficult` for those that do not count. A class has one number in all splits. `output` is an empty folder, or one
    in which the same preparation stopped.
    """
    settings = settings or PreparationSettings()
    share_class_names(splits.values())
    manifest = _claim(splits, output, settings)
    prepared = {}
    for split, images in splits.items():
        ledger = UnreadableImages(images, settings.max_bad_fraction)
        shards = manifest.shards.setdefault(split, [])
        ledger.record(index for shard in shards for index in shard.skipped)
        for shard in _write_shards(images, split, output, shards, ledger, settings):
            shards.append(shard)
            manifest.save(output)
        total = sum(shard.images for shard in shards)
        if not total:
            raise ValueError(
                f"{images.description.source} ({split}): no image could be read, so there is nothing to write."
            )
        files = sum(shard.images > 0 for shard in shards)
        prepared[split] = PreparedSplit(total, files, tuple(ledger.names()), ledger.reasons())
    manifest.complete = True
    manifest.save(output)
    return prepared


def _claim(splits: Mapping[str, ImageDataset], output: Path, settings: PreparationSettings) -> ShardManifest:
    """The manifest of this folder, new or of the run that is continued."""
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output} is a file; give a folder.")
    source = {split: images.description.to_dict() for split, images in splits.items()}
    wanted = {"shard_bytes": settings.shard_bytes}
    found = ShardManifest.load(output)
    if found is None:
        if output.is_dir() and any(output.iterdir()):
            raise ValueError(f"{output} is not empty and holds no stopped preparation; give a new or an empty folder.")
        found = ShardManifest(source, wanted)
        found.save(output)
    elif found.source != source or found.settings != wanted:
        what = "another source" if found.source != source else f"files of {found.settings.get('shard_bytes')} bytes"
        raise ValueError(f"{output} holds {what}; give another folder, or the settings it was begun with.")
    for pattern in (".*.parquet", f".{Path(MANIFEST).stem}.*"):
        for leftover in output.glob(pattern):
            leftover.unlink()  # a file that a killed run had not finished
    lost = [shard for shards in found.shards.values() for shard in shards if shard.images]
    lost = [shard for shard in lost if not (output / shard.file).is_file()]
    if lost:
        raise ValueError(f"{output}: {lost[0].file} was removed since; prepare again into an empty folder.")
    return found


def _write_shards(
    images: ImageDataset,
    split: str,
    output: Path,
    done: list[Shard],
    ledger: UnreadableImages,
    settings: PreparationSettings,
) -> Iterator[Shard]:
    """Writes the files that are not there yet."""
    number, start = len(done), done[-1].after if done else 0
    file_names = images.file_names()
    rows: list[tuple[int, bytes]] = []
    skipped: list[int] = []
    size = 0
    with (
        ThreadPoolExecutor(settings.num_workers) as pool,
        tqdm(total=len(images), initial=start, desc=f"{split}", unit="img", disable=not settings.progress) as bar,
    ):
        for first in range(start, len(images), _READ_TOGETHER):
            block = range(first, min(first + _READ_TOGETHER, len(images)))
            for index, data in zip(
                block, pool.map(lambda index: _require_whole_image(images, index), block), strict=True
            ):
                if data is None:
                    skipped.append(index)
                    ledger.record([index])
                else:
                    rows.append((index, data))
                    size += len(data)
                if size >= settings.shard_bytes or (index == len(images) - 1 and (rows or skipped)):
                    file = f"{split}-{number:05d}.parquet"
                    if rows:
                        _write(images, rows, file_names, output / file)
                    yield Shard(file, index + 1, len(rows), tuple(skipped))
                    number, size, rows, skipped = number + 1, 0, [], []
                bar.update()


def _require_whole_image(images: ImageDataset, index: int) -> bytes | None:
    """The bytes of an image that can be decoded, None for any other."""
    try:
        data = images.encoded(index)
        decode_rgb(data, "")
    except UnreadableImageError:
        return None
    return data


def _write(images: ImageDataset, rows: list[tuple[int, bytes]], file_names: list[str], path: Path) -> None:
    # Not at the top: they take a second to import and are needed here alone.
    library, arrow = importlib.import_module("datasets"), importlib.import_module("pyarrow")
    parquet = importlib.import_module("pyarrow.parquet")
    columns: dict[str, list[Any]] = {
        "image": [{"bytes": data, "path": printable(file_names[index])} for index, data in rows],
        **_class_columns(images, [index for index, _ in rows]),
    }
    kinds: dict[str, Any] = {"image": library.Image()}
    if images.multi_hot is not None:
        kinds |= dict.fromkeys(
            (LABELS_COLUMN, DIFFICULT_COLUMN), library.Sequence(library.ClassLabel(names=images.class_names))
        )
    elif images.num_classes:
        kinds["label"] = library.ClassLabel(names=images.class_names)
    table = arrow.Table.from_pydict(columns, schema=library.Features(kinds).arrow_schema)
    # A stream, since the library takes no path that is not UTF-8.
    with atomic_write(path) as temporary, temporary.open("wb") as stream:
        parquet.write_table(table, stream, row_group_size=_ROWS_A_GROUP)


def _class_columns(images: ImageDataset, indices: list[int]) -> dict[str, list[Any]]:
    if images.multi_hot is not None:
        hot = images.multi_hot
        return {
            LABELS_COLUMN: [(hot[index] == 1).nonzero()[0].tolist() for index in indices],
            DIFFICULT_COLUMN: [(hot[index] == -1).nonzero()[0].tolist() for index in indices],
        }
    if not images.num_classes:
        return {}
    labels = [int(images.labels[index]) for index in indices]
    return {"label": [None if label == UNLABELED else label for label in labels]}
