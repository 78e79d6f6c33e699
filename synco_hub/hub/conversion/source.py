"""Where a foreign checkpoint comes from: a file of torch, a .safetensors file, a directory, or a name of timm."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from synco_hub.errors import escape, join_names
from synco_hub.hub.conversion.torch_file import read_torch_file
from synco_hub.hub.loading import TIMM_PREFIX, load_model

_READ_AT_ONCE = 1 << 22
_STOCK_MODEL_TYPES = ("vit", "swin")


@dataclass(frozen=True)
class CheckpointSource:
    """A checkpoint as it was found.

    Attributes:
        name: What the user gave.
        kind: `torch`, `safetensors`, `transformers` (a directory of a stock model), or `timm`.
        sha256: Of the file that holds the weights; None for a name of timm.
        content: What the file holds: nested plain data with tensors or descriptions of tensors.
        config: What describes the network beside the weights, as plain data; empty if nothing does.
        processor: The image processor that belongs to it, if it is known.
    """

    name: str
    kind: str
    sha256: str | None
    content: Mapping[str, Any]
    config: Mapping[str, Any] = field(default_factory=dict)
    processor: Any = None


def open_source(source: str) -> CheckpointSource:
    """Find and open a checkpoint; no code of it is run."""
    if source.startswith(TIMM_PREFIX):
        network, processor = load_model(source)
        return CheckpointSource(source, "timm", None, network.state_dict(), processor=processor)
    path = Path(source).expanduser()
    if path.is_dir():
        return _open_directory(path)
    if not path.is_file():
        raise ValueError(
            f"source {source!r} is neither a file nor a directory: give the downloaded checkpoint, or timm:<name> for "
            "a network of timm."
        )
    return _open_file(path)


def _open_file(path: Path) -> CheckpointSource:
    # By its content, not its name: what a stranger called it proves nothing.
    with path.open("rb") as stream:
        start = stream.read(16)
    if len(start) == 16 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size:
        tensors, facts = read_safetensors(path)
        config = _plain_config(path, facts.get("synco_config", "{}"))
        return CheckpointSource(str(path), "safetensors", compute_sha256(path), tensors, config)
    content = read_torch_file(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, but a checkpoint is a dictionary of tensors.")
    if strange := [key for key in content if not isinstance(key, str)]:
        raise ValueError(f"{path} has keys that are no text ({join_names(strange, 3)}): the file is refused.")
    return CheckpointSource(str(path), "torch", compute_sha256(path), content)


def _plain_config(path: Path, text: str) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: its configuration is no JSON ({error}): the file is refused.") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path}: its configuration is no object of JSON: the file is refused.")
    return config


def _open_directory(path: Path) -> CheckpointSource:
    weights = path / "model.safetensors"
    if not (path / "config.json").is_file() or not weights.is_file():
        raise ValueError(
            f"{path} has no config.json and model.safetensors: give the file with the weights, or a directory that "
            "transformers or timm wrote."
        )
    config = _plain_config(path / "config.json", (path / "config.json").read_text(encoding="utf-8"))
    kind = "timm" if "architecture" in config else str(config.get("model_type"))
    if kind == "synco":
        raise ValueError(f"{path} is a checkpoint of this package already: load it by AutoModel, or export it.")
    if kind not in ("timm", *_STOCK_MODEL_TYPES):
        raise ValueError(
            f"{path} holds a model of the type {escape(kind)!r}: of transformers' own models ViT and Swin are "
            f"converted ({', '.join(_STOCK_MODEL_TYPES)})."
        )
    if kind == "timm":
        config = config.get("synco_config") or config
        if not isinstance(config, dict):
            raise ValueError(f"{path / 'config.json'}: its synco_config is no object of JSON: the file is refused.")
    tensors, _ = read_safetensors(weights)
    return CheckpointSource(
        str(path), "timm" if kind == "timm" else "transformers", compute_sha256(weights), tensors, config
    )


def find_weights(source: CheckpointSource, container: str | None) -> Mapping[str, Any]:
    """The dictionary of weights of a checkpoint; a file that is nothing else is its own container."""
    state = source.content if container is None else source.content.get(container)
    if state is None and any(isinstance(value, Tensor) for value in source.content.values()):
        state = source.content
    if not isinstance(state, Mapping) or not any(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(
            f"{source.name} has no dictionary of tensors under {container!r} (it has "
            f"{join_names(source.content, 8)}): give another --layout."
        )
    wrong = [key for key, value in state.items() if not isinstance(key, str) or not isinstance(value, Tensor)]
    if wrong:
        raise ValueError(
            f"{source.name}: among the weights, {join_names(wrong, 5)} are no tensors: the file is refused."
        )
    return state


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and facts of a .safetensors file."""
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is no whole .safetensors file ({error}): download it again.") from error


def compute_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_READ_AT_ONCE):
            digest.update(block)
    return digest.hexdigest()


def read_tensors(value: Any) -> Iterator[Any]:
    """Every tensor inside nested plain data; each container is visited once."""
    seen: set[int] = set()
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, Tensor):
            yield item
        elif isinstance(item, (dict, list, tuple, set, frozenset)) and id(item) not in seen:
            seen.add(id(item))
            waiting.extend(item.values() if isinstance(item, dict) else item)
