"""Where a foreign checkpoint comes from: a file, a directory, a repository of the Hub, or a name of timm."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers.utils import IMAGE_PROCESSOR_NAME, PROCESSOR_NAME

from synco_hub.errors import escape, join_names
from synco_hub.hub.client_errors import ANSWER_SECONDS, explain_errors, refuse_commit_in_name
from synco_hub.hub.conversion.torch_file import read_torch_file
from synco_hub.hub.loading import load_model
from synco_hub.hub.model_names import TIMM_PREFIX
from synco_hub.hub.preprocessing import make_timm_processor, open_processor

_READ_AT_ONCE = 1 << 22
_STOCK_MODEL_TYPES = ("vit", "swin")
# Where transformers keeps weights, whole or with an index of their shards.
_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
_PROCESSOR_FILES = (IMAGE_PROCESSOR_NAME, PROCESSOR_NAME)
# What wrappers put before or between the names of a network: torch.compile, data parallelism, FSDP, checkpointing.
_WRAPPERS = ("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# What the programs of others call the network that they train, at the beginning of every key.
_OWNERS = ("model.", "timm_model.", "net.", "network.")
_DEEPEST_STATE = 3
_FILE_ENDINGS = (".pth", ".pt", ".tar", ".bin", ".ckpt", ".safetensors")
_ASIDE = re.compile("optim|sched|scaler", re.IGNORECASE)
_AVERAGES = re.compile("ema|avg|average|swa|momentum|teacher|target", re.IGNORECASE)


@dataclass(frozen=True)
class CheckpointSource:
    """A checkpoint as it was found.

    Attributes:
        name: What the user gave.
        kind: `torch`, `safetensors`, `transformers` (a directory of a stock model), or `timm`.
        sha256: Of the file that holds the weights, or of its shards one after another; None for a name of timm.
        content: What the file holds: nested plain data with tensors or descriptions of tensors.
        config: What describes the network beside the weights, as plain data; empty if nothing does.
        processor: The image processor that belongs to it, if it is known.
        directory: Where a stock model can be loaded from, to compare with.
        revision: Commit of a repository of the Hub.
    """

    name: str
    kind: str
    sha256: str | None
    content: Mapping[str, Any]
    config: Mapping[str, Any] = field(default_factory=dict)
    processor: Any = None
    directory: Path | None = None
    revision: str | None = None


def open_source(source: str, revision: str | None = None, api: HfApi | None = None) -> CheckpointSource:
    """Find and open a checkpoint; no code of it is run."""
    if source.startswith(TIMM_PREFIX):
        network, processor = load_model(source)
        return CheckpointSource(source, "timm", None, network.state_dict(), processor=processor)
    path = Path(source).expanduser()
    if _is_hub_id(source.partition("@")[0]):
        refuse_commit_in_name(source)
    if _is_hub_id(source):
        return _open_repository(source, revision, api or HfApi())
    if revision is not None:
        raise ValueError(f"--revision {revision} is for a Hub id, and {source!r} is none: leave it out.")
    if path.is_dir():
        return _open_directory(path)
    if not path.is_file():
        raise ValueError(
            f"source {source!r} is neither a file nor a directory: give the downloaded checkpoint, a Hub id such as "
            "organisation/name, or timm:<name> for a network of timm."
        )
    return _open_file(path)


def _is_hub_id(source: str) -> bool:
    path = Path(source)
    here = path.exists() or path.parent.is_dir() or path.suffix in _FILE_ENDINGS
    return not here and re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", source) is not None


def _open_repository(repo_id: str, revision: str | None, client: HfApi) -> CheckpointSource:
    """A repository of the Hub, downloaded into the usual cache."""
    with explain_errors("converting", repo_id, "Repeating continues."):
        info = client.model_info(repo_id, revision=revision, timeout=ANSWER_SECONDS)
        names = [file.rfilename for file in info.siblings or []]
        stem = next((stem for stem in map(_stem, _WEIGHT_FILES) if any(name.startswith(stem) for name in names)), None)
        if stem is None or "config.json" not in names:
            raise ValueError(
                f"{repo_id} has no config.json with model.safetensors or pytorch_model.bin (it has "
                f"{join_names(names, 8)}): download its file of weights, and give that."
            )
        wanted = [name for name in names if name in ("config.json", *_PROCESSOR_FILES) or name.startswith(stem)]
        directory = client.snapshot_download(repo_id, revision=info.sha, allow_patterns=wanted)
    return replace(_open_directory(Path(directory)), name=repo_id, revision=info.sha)


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _open_file(path: Path) -> CheckpointSource:
    # By its content, not its name: what a stranger called it proves nothing.
    with path.open("rb") as stream:
        start = stream.read(16)
    if len(start) == 16 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size:
        tensors, facts = read_safetensors(path)
        config = _plain_config(path, facts.get("synco_config", "{}"))
        # What this package exports has its image processor beside it.
        beside = path.with_name(IMAGE_PROCESSOR_NAME)
        processor = open_processor(beside) if config and beside.is_file() else None
        return CheckpointSource(str(path), "safetensors", compute_sha256(path), tensors, config, processor)
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
    files = _find_weight_files(path)
    if not (path / "config.json").is_file() or not files:
        raise ValueError(
            f"{path} has no config.json and model.safetensors (or pytorch_model.bin, or the index of their shards): "
            "give the file with the weights, or a directory that transformers or timm wrote."
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
    processor = None
    if kind == "timm":
        processor = make_timm_processor(config)
        config = config.get("synco_config") or config
        if not isinstance(config, dict):
            raise ValueError(f"{path / 'config.json'}: its synco_config is no object of JSON: the file is refused.")
    elif any((path / name).is_file() for name in _PROCESSOR_FILES):
        processor = open_processor(path)
    tensors: dict[str, Any] = {}
    for file in files:
        tensors |= read_safetensors(file)[0] if file.suffix == ".safetensors" else _open_file(file).content
    stock = kind != "timm"
    return CheckpointSource(
        str(path),
        "transformers" if stock else "timm",
        compute_sha256(*files),
        tensors,
        config,
        processor,
        path if stock else None,
    )


def _find_weight_files(path: Path) -> list[Path]:
    """The files of a directory's weights: one, or all that its index names."""
    for name in _WEIGHT_FILES:
        if (path / name).is_file():
            return [path / name]
        index = path / f"{name}.index.json"
        if index.is_file():
            shards = _plain_config(index, index.read_text(encoding="utf-8")).get("weight_map")
            names = sorted({str(shard) for shard in shards.values()}) if isinstance(shards, dict) else []
            lacking = [shard for shard in names if Path(shard).name != shard or not (path / shard).is_file()]
            if lacking or not names:
                raise ValueError(f"{index} names shards that are not beside it ({join_names(lacking, 3)}): get them.")
            return [path / shard for shard in names]
    return []


@dataclass(frozen=True)
class State:
    """A dictionary of weights inside a checkpoint, under the network's own names.

    Attributes:
        place: Key at the top of the file that it lies under; empty where it is the file itself.
        tensors: Name to tensor, without what wrappers put into the names.
        others: Keys beside the tensors whose values are none.
    """

    place: str
    tensors: dict[str, Any]
    others: tuple[Any, ...] = ()


def find_states(source: CheckpointSource) -> dict[str, State]:
    """Every dictionary of weights of a checkpoint, by the keys that lead to it, joined by dots; empty for the file."""
    found: dict[str, State] = {}
    waiting: list[tuple[tuple[str, ...], Any]] = [((), source.content)]
    while waiting:
        way, value = waiting.pop(0)
        if not isinstance(value, Mapping) or (way and _ASIDE.search(way[0])):
            continue
        tensors = {key: item for key, item in value.items() if isinstance(key, str) and isinstance(item, Tensor)}
        if tensors:
            others = tuple(key for key in value if key not in tensors)
            found[".".join(way)] = State(way[0] if way else "", unwrap_names(tensors), others)
        if len(way) < _DEEPEST_STATE:
            waiting += [((*way, key), item) for key, item in value.items() if isinstance(key, str)]
    return found


def unwrap_names(state: Mapping[str, Any]) -> dict[str, Any]:
    """Take off what torch.compile, parallelism and other people's programs put around a network's own names."""
    names = {key: ".".join(part for part in key.split(".") if part not in _WRAPPERS) or key for key in state}
    while owner := next((owner for owner in _OWNERS if all(name.startswith(owner) for name in names.values())), None):
        names = {key: name.removeprefix(owner) for key, name in names.items()}
    if len(set(names.values())) < len(names):
        twice = [key for key, name in names.items() if list(names.values()).count(name) > 1]
        raise ValueError(f"{join_names(twice, 4)} are one name once wrappers are taken off: the file is refused.")
    return {name: state[key] for key, name in names.items()}


def choose_state(source: CheckpointSource, containers: Sequence[str], wanted: str | None = None) -> tuple[str, State]:
    """Which dictionary of weights is converted: the one that is named, the first usual one, or the only one."""
    states = find_states(source)
    name = _choose_name(source, states, containers, wanted)
    if others := states[name].others:
        raise ValueError(
            f"{source.name}: among the weights, {join_names(others, 5)} are no tensors: the file is refused."
        )
    return name, states[name]


def _choose_name(
    source: CheckpointSource, states: Mapping[str, State], containers: Sequence[str], wanted: str | None
) -> str:
    if named := [name for name in states if wanted and (name == wanted or name.startswith(f"{wanted}."))]:
        return named[0]
    if usual := [name for name in (*containers, "") if name in states]:
        return usual[0]
    # Averages of the weights are taken where they are asked for, or alone.
    own = [name for name in states if not _AVERAGES.search(name)] or list(states)
    if len(own) == 1:
        return own[0]
    if own:
        raise ValueError(
            f"{source.name} has weights under {join_names(own, 8)}: choose by --branch, such as {own[0]}."
        )
    raise ValueError(f"{source.name} has no dictionary of tensors (it has {join_names(source.content, 8)}).")


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and facts of a .safetensors file."""
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is no whole .safetensors file ({error}): download it again.") from error


def compute_sha256(*paths: Path) -> str:
    """SHA-256 of the bytes of a file, or of several one after another, in hexadecimal."""
    digest = hashlib.sha256()
    for path in paths:
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
