"""How an interrupted measurement goes on: a folder of finished parts that knows which measurement it belongs to.

Finished parts (features, masks, boxes, attacked batches) of another model or of other settings must never enter a
result unseen: such a folder is refused. A part whose image files have changed since is no finished part. Names do not
tell that: images are replaced under the same names, and folders move. So every byte is read, which costs little beside
decoding the image and sending it through a network.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from synco_hub.atomic_write import atomic_write
from synco_hub.data import ImageDataset, UnreadableImageError
from synco_hub.data.corruptions import WatermarkedImages
from synco_hub.data.image_dataset import fingerprint
from synco_hub.feature_pooling import find_feature_network
from synco_hub.weights_identity import hash_weights

_FILE = "measurement.json"
_CONTENTS = "contents"
# Characters of a value in an error: a subset is a list of thousands of numbers.
_SHOWN = 60
# Where a checkpoint lies and what wrote it changes no number.
_NO_SETTINGS = ("architectures", "auto_map", "dtype", "torch_dtype", "transformers_version", "pretraining")
# Reading waits for the disk, and hashing gives the interpreter free.
_THREADS = 8
# Images that stand for all of them.
_SAMPLE = 64
# Files of one task, so that a million images are not a million tasks.
_RUN = 64


class ResumableFolder:
    """Finished parts of one measurement, each whole or not there."""

    def __init__(
        self, path: Path | None, identity: Mapping[str, Any], earlier: Mapping[str, Any] | None = None
    ) -> None:
        self.path = path
        if path is None:
            return
        file = path / _FILE
        if file.is_file():
            remedy = "give another output, or delete this folder to measure anew"
            check_same_measurement(f"{str(path)!r} holds parts of", read_json(file), identity, remedy, earlier)
        elif path.is_dir() and any(path.iterdir()):
            raise ValueError(
                f"{str(path)!r} is not empty and holds no {_FILE}: give another output, or one of the same command"
            )
        else:
            write_json(file, dict(identity))

    def save_part(self, name: str, contents: str, values: Mapping[str, Any]) -> None:
        """Keep JSON values that were measured on images of these `contents`."""
        if self.path is not None:
            write_json(self.path / name, {_CONTENTS: contents, **values})

    def load_part(self, name: str, contents: str) -> dict[str, Any] | None:
        """What :meth:`save_part` kept; None if there is nothing, or it was measured on other contents."""
        if not self.has(name):
            return None
        values = self.load(name)
        return values if values.pop(_CONTENTS, None) == contents else None

    def save_tensors(self, name: str, contents: str, tensors: Mapping[str, Tensor]) -> None:
        """As :meth:`save_part`, for tensors; the name ends in .safetensors."""
        if self.path is not None:
            with atomic_write(self.path / name) as temporary:
                save_file(dict(tensors), temporary, metadata={_CONTENTS: contents})

    def load_tensors(self, name: str, contents: str) -> dict[str, Tensor] | None:
        """As :meth:`load_part`, for tensors."""
        if self.path is None or not self.has(name):
            return None
        file = self.path / name
        try:
            with safe_open(file, framework="pt") as stored:
                if (stored.metadata() or {}).get(_CONTENTS) != contents:
                    return None
                return {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{str(file)!r} is damaged ({error}): delete it, and measure that part again") from None

    def has(self, name: str) -> bool:
        """Whether a part is there, of whatever contents: without one there is no need to read its images."""
        return self.path is not None and (self.path / name).is_file()

    def load(self, name: str) -> dict[str, Any]:
        """What :meth:`save` kept; empty if there is nothing."""
        return read_json(self.path / name) if self.path is not None and self.has(name) else {}

    def save(self, name: str, values: Mapping[str, Any]) -> None:
        """Keep JSON values that say themselves what they were measured on."""
        if self.path is not None:
            write_json(self.path / name, values)


def check_same_measurement(
    where: str,
    theirs: Mapping[str, Any],
    ours: Mapping[str, Any],
    remedy: str,
    earlier: Mapping[str, Any] | None = None,
) -> None:
    """Check that what is kept is of the measurement that goes on; `earlier` are values of it in earlier versions."""
    ours = json.loads(json.dumps(dict(ours)))
    before = {key: value for key, value in (earlier or {}).items() if value is not None}
    differing = [
        key for key in {**theirs, **ours} if theirs.get(key) not in (ours.get(key), before.get(key, ours.get(key)))
    ]
    if differing:
        words = (f"{key}: {_shown(theirs.get(key))} there, {_shown(ours.get(key))} now" for key in differing[:3])
        raise ValueError(f"{where} another measurement ({'; '.join(words)}): {remedy}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def write_json(file: Path, values: Any) -> None:
    """Write JSON values, whole or not at all."""
    with atomic_write(file) as temporary:
        temporary.write_text(json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object that :func:`write_json` wrote."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{str(file)!r} is damaged ({error}): delete it, and measure that part again") from None
    if not isinstance(values, dict):
        raise ValueError(f"{str(file)!r} holds no JSON object: delete it, and measure that part again")
    return values


# Which network was measured.


def identify_model(model: nn.Module) -> dict[str, str]:
    """What two measurements must have in common to be of one model."""
    facts = {"weights": hash_weights(model), "configuration": fingerprint(_configuration(model))}
    # The hash is that of the values: a network in another type computes otherwise with the same ones.
    types = sorted({str(each.dtype).removeprefix("torch.") for each in model.parameters()} - {"float32"})
    return {**facts, "types": ", ".join(types)} if types else facts


def _configuration(model: nn.Module) -> str:
    network = find_feature_network(model)
    config: Any = getattr(model, "config", None) or getattr(network, "config", None)
    if hasattr(config, "to_diff_dict"):
        settings: dict[str, Any] = config.to_diff_dict()
    else:
        settings = {"timm": (getattr(network, "pretrained_cfg", None) or {}).get("architecture")}
    kept = {key: value for key, value in settings.items() if key not in _NO_SETTINGS and not key.startswith("_")}
    return json.dumps(kept, sort_keys=True, default=str)


# Which images it saw.


def hash_images(images: ImageDataset, positions: Sequence[int] | None = None) -> str:
    """Hash of the stored images, in their order; where they lie and what they are called plays no part."""
    if isinstance(images, WatermarkedImages):
        return hash_images(images.images, positions)  # the mark is drawn on the view, not stored
    return _hash_of(images.encoded, range(len(images)) if positions is None else positions)


def hash_contents(images: ImageDataset) -> str:
    """What a data set is wherever it lies and whatever it is called: its labels, and images spread over it.

    A sample, since a run that goes on must not read millions of files first.
    """
    spread = sorted({int(place) for place in np.linspace(0, len(images) - 1, min(_SAMPLE, len(images)))})
    several = b"" if images.multi_hot is None else images.multi_hot.tobytes()
    return fingerprint(hash_images(images, spread), str(len(images)), images.class_names, images.labels, several)


def hash_files(files: Sequence[Path]) -> str:
    """Hash of files, in their order; a missing one has a mark of its own."""
    return _hash_of(lambda number: files[number].read_bytes(), range(len(files)))


def _hash_of(read: Callable[[int], bytes], positions: Sequence[int]) -> str:
    def digests(start: int) -> list[str]:
        return [_digest(read, position) for position in positions[start : start + _RUN]]

    # The first run alone: a data set that is drawn or opened by its first image is drawn or opened once.
    first = digests(0)
    with ThreadPoolExecutor(_THREADS) as threads:
        rest = threads.map(digests, range(_RUN, len(positions), _RUN))
        return fingerprint([*first, *(digest for run in rest for digest in run)])


def _digest(read: Callable[[int], bytes], position: int) -> str:
    try:
        return hashlib.blake2b(read(position), digest_size=16).hexdigest()
    except (OSError, UnreadableImageError):
        return "unreadable"
