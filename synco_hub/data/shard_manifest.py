"""What `synco-hub data prepare` has written so far, and of what: the file that makes a killed run continue."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from synco_hub.atomic_write import atomic_write

MANIFEST = "prepared.json"
_FORMAT = 1


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
        """Reads it; None where there is none.

        Raises:
            ValueError: If the file is damaged or of another version.
        """
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
    """Refuses to read a folder in which a preparation was killed.

    Raises:
        ValueError: If shards are missing, of the preparation or since then.
    """
    manifest = ShardManifest.load(folder)
    if manifest is None:
        return
    files = [shard.file for shards in manifest.shards.values() for shard in shards]
    missing = [file for file in files if not (folder / file).is_file()]
    if not manifest.complete or missing:
        state = f"{missing[0]} is missing" if missing else "its preparation was stopped"
        raise ValueError(
            f"{folder}: {state}; run the same `synco-hub data prepare` again, which continues, before it is read."
        )
