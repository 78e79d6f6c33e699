"""Finished batches of a long measurement on disk, each whole or absent, so that a killed run goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from synco_hub.atomic_write import written_whole

SETTINGS_FILE = "settings.json"


class BatchStore:
    """A folder with one JSON file a batch.

    Args:
        folder: Where the files are.
        settings: Everything that the numbers depend on; a folder of other settings is refused.

    Raises:
        ValueError: If the folder holds batches of other settings.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        text = json.dumps(dict(settings), indent=2, sort_keys=True)
        file = folder / SETTINGS_FILE
        if file.is_file():
            different = _differences(_settings_or_none(file), json.loads(text))
            if different:
                raise ValueError(
                    f"{folder} holds batches of another measurement ({', '.join(different)} differ): give another "
                    "--output, or remove the folder to measure anew"
                )
            return
        with written_whole(file) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")

    def load(self, kind: str, number: int) -> dict[str, Any] | None:
        """A finished batch, None if there is none.

        Raises:
            ValueError: If the file is damaged.
        """
        file = self._file(kind, number)
        if not file.is_file():
            return None
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{file} is damaged ({error}): remove it, and its batch is measured again") from None
        if not isinstance(values, dict):
            raise ValueError(f"{file} does not hold a batch: remove it, and its batch is measured again")
        return values

    def save(self, kind: str, number: int, values: Mapping[str, Any]) -> None:
        """Keep a finished batch."""
        with written_whole(self._file(kind, number)) as temporary:
            temporary.write_text(json.dumps(dict(values), allow_nan=False) + "\n", encoding="utf-8")

    def _file(self, kind: str, number: int) -> Path:
        return self.folder / kind / f"batch-{number:06d}.json"


def weights_fingerprint(network: nn.Module) -> str:
    """A short hash of every parameter and buffer; another training of the same network has another one."""
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(network.state_dict().items()):
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{name}/{plain.dtype}/{tuple(plain.shape)}".encode())
        # As bytes: numpy has no bfloat16.
        digest.update(plain.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _settings_or_none(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        return None


def _differences(old: Any, new: dict[str, Any]) -> list[str]:
    if not isinstance(old, dict):
        return [SETTINGS_FILE]
    return [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
