"""A folder that an interrupted measurement continues from: it remembers what it belongs to.

Finished parts (features, masks, boxes) of another model or of other settings must never enter a result unseen.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from synco_hub.atomic_write import written_whole

_FILE = "measurement.json"


def claim_folder(folder: Path, facts: Mapping[str, Any]) -> None:
    """Mark a folder as belonging to one measurement, or check that it does.

    Args:
        folder: Made if it is missing.
        facts: Everything that changes the parts kept there; JSON values.

    Raises:
        ValueError: If the folder belongs to another measurement, naming what differs, or holds foreign files.
    """
    ours = json.loads(json.dumps(facts))
    file = folder / _FILE
    if not file.is_file():
        if folder.is_dir() and any(folder.iterdir()):
            raise ValueError(
                f"{str(folder)!r} is not empty and holds no {_FILE}: give a new folder, or one of the same command"
            )
        write_json(file, ours)
        return
    theirs = read_json(file)
    if theirs != ours:
        keys = {**theirs, **ours}
        differing = [key for key in keys if theirs.get(key) != ours.get(key)]
        shown = "; ".join(f"{key}: {theirs.get(key)!r} there, {ours.get(key)!r} now" for key in differing[:3])
        raise ValueError(
            f"{str(folder)!r} holds parts of another measurement ({shown}): give another folder, or delete this one"
        )


def weights_fingerprint(network: nn.Module) -> str:
    """Hash of all weights and buffers, in the order of their names.

    Args:
        network: Any module with materialised weights.

    Returns:
        Sixteen hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        # Bytes of any type, bfloat16 included, which numpy does not know.
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def write_json(file: Path, values: Any) -> None:
    """Write JSON values, whole or not at all."""
    with written_whole(file) as temporary:
        temporary.write_text(json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object that :func:`write_json` wrote.

    Raises:
        ValueError: If the file is none.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{str(file)!r} is damaged ({error}): delete it, and measure that part again") from None
    if not isinstance(values, dict):
        raise ValueError(f"{str(file)!r} holds no JSON object: delete it, and measure that part again")
    return values
