"""Any published ViT or Swin as the start of a training: a network of this package, and where it is from.

What `convert` reads is read here by the same code, every tensor accounted for; checkpoints of this package are loaded,
with the heads and queues of a pretraining state. Another image size interpolates positions, also fixed ones, which
stay on the scale that the start was trained on; bias tables follow where the window changes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, ModelCard
from safetensors import safe_open
from timm.layers.pos_embed_rel import resize_rel_pos_bias_table
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModel
from transformers.utils import IMAGE_PROCESSOR_NAME

from synco_hub.hub.card.facts import FACTS_FILE, read_facts
from synco_hub.hub.client_errors import ANSWER_SECONDS, explain_errors
from synco_hub.hub.conversion.configuration import Choices
from synco_hub.hub.conversion.convert import ConversionSettings, account, read_converted
from synco_hub.hub.conversion.source import CheckpointSource, open_source
from synco_hub.hub.export.network import CONFIG_FIELDS
from synco_hub.hub.loading import load_processor
from synco_hub.hub.model_names import (
    TIMM_PREFIX,
    check_model_name,
    find_revision,
    find_timm_repository,
    read_head_facts,
    say_revision,
)
from synco_hub.hub.preprocessing import Preprocessing, choose_preprocessing, describe_steps, resize_preprocessing
from synco_hub.hub.run_checkpoints import find_newest_state
from synco_hub.hub.short_names import register, resolve
from synco_hub.models import SynCoConfig, SynCoModel
from synco_hub.models.position_embedding_synco import fit_position_embedding
from synco_hub.weights_identity import hash_weights

_STATE = ("projector.", "target_projector.", "predictor.", "queue_1.", "queue_2.")
_BACKBONE = "synco.backbone."
_WHY_DROPPED = {
    "target": "both networks start as the online one",
    "classifier": "it reads labels, which are not used",
}
_REGISTERS = re.compile(r"(^|\.)(reg_token|register_tokens)$")
# What of a repository of this package's own is read.
_FILES = ("*.json", "*.safetensors", FACTS_FILE, "README.md")


@dataclass(frozen=True)
class Start:
    """A network to begin with.

    Attributes:
        model: It, in evaluation mode and single precision, at the wanted size.
        processor: Its image processor, for that size.
        facts: Where it is from and what was done, JSON values: `base_model`, `kind`, `revision`, `licence`, `weights`
            (hash of its own), `image_size` (its own), `positions`, `pretraining`, `carried_over`, `dropped`.
        state: Tensors of heads and queues, by the names of `SynCoForPreTraining`.
        antialias: How its own code interpolates positions: timm's does, that of `transformers` does not.
    """

    model: SynCoModel
    processor: Any
    facts: dict[str, Any]
    state: Mapping[str, Tensor] = field(default_factory=dict)
    antialias: bool = True

    @property
    def forbids_derivatives(self) -> bool:
        """Whether its licence lets nobody pass on what is made from it."""
        return "nd" in re.split(r"[-_. ]", str(self.facts["licence"]).lower())

    def describe(self) -> str:
        """One line on what is begun with."""
        facts, config = self.facts, self.model.config
        dropped = "; ".join(f"{row['what']} ({row['reason']})" for row in facts["dropped"])
        revision, licence = say_revision(facts["revision"]), facts["licence"] or "not known"
        return (
            f"starting from {facts['base_model']} ({revision}; licence: {licence}): "
            f"{config.backbone}, {config.image_size} pixels, patches of {config.patch_size}, heads "
            f"{config.num_heads}; {facts['positions']}; carried over: "
            + ", ".join(f"{count} tensors of {part}" for part, count in facts["carried_over"].items())
            + (f"; dropped: {dropped}" if dropped else "")
        )


def read_start(
    name: str,
    revision: str | None = None,
    image_size: int | None = None,
    window_size: int | None = None,
    num_heads: int | None = None,
    api: HfApi | None = None,
) -> Start:
    """Read the start of a training; no global random generator is moved.

    Args:
        name: A short name, a checkpoint, run or stock model's directory, a file of weights, a Hub id, or timm:<name>.
        revision: Commit, branch or tag on the Hub.
        image_size: Side of the input, where it shall be another than its own.
        window_size: Side of a Swin's windows, likewise.
        num_heads: Heads of a ViT, where nothing of a file of weights tells.
        api: The Hub's client.
    """
    with torch.random.fork_rng(devices=[]):
        found = _read(name, revision, num_heads, api)
        _refuse_registers(name, dict(found.model.backbone.state_dict()))
        model, positions = resize(found.model, image_size, window_size, found.antialias)
    prepared = Preprocessing(found.processor, "the start's")
    if model.config.image_size != found.model.config.image_size:
        prepared = resize_preprocessing(prepared, model.config.image_size)
    facts = {
        **found.facts,
        "weights": hash_weights(found.model),
        "image_size": found.model.config.image_size,
        "positions": positions,
        "preprocessing": describe_steps(prepared.processor),
    }
    evaluated: Any = model
    return Start(evaluated.eval(), prepared.processor, facts, found.state)


def _read(name: str, revision: str | None, num_heads: int | None, api: HfApi | None) -> Start:
    register()
    if head := read_head_facts(name):
        name, revision = head["model"], head.get("revision")
    name = find_newest_state(name)
    place = resolve(name) if not name.startswith(TIMM_PREFIX) else name
    if Path(place).is_file() or place.startswith(TIMM_PREFIX):
        return _read_foreign(name, open_source(place, None, api), revision, num_heads)
    check_model_name(name)
    kind, called = ("zoo", name) if place != name else ("directory", _call_directory(Path(place)))
    if Path(place).is_dir():
        facts = {"kind": kind, "base_model": called, "revision": find_revision(name, revision).words}
        if _is_own(Path(place) / "config.json"):
            return _read_own(Path(place), facts)
        return _read_foreign(name, open_source(place), None, num_heads, facts)
    return _read_repository(place, revision, num_heads, api or HfApi())


def _read_repository(repo_id: str, revision: str | None, num_heads: int | None, client: HfApi) -> Start:
    with explain_errors("starting from", repo_id, "Repeating continues."):
        info = client.model_info(repo_id, revision=revision, timeout=ANSWER_SECONDS)
        config = Path(client.hf_hub_download(repo_id, "config.json", revision=info.sha))
        facts = {"kind": "hub", "base_model": repo_id, "revision": info.sha}
        if _is_own(config):
            place = client.snapshot_download(repo_id, revision=info.sha, allow_patterns=list(_FILES))
            return _read_own(Path(place), facts)
        if "README.md" in [file.rfilename for file in info.siblings or []]:
            card = Path(client.hf_hub_download(repo_id, "README.md", revision=info.sha))
            facts["licence"] = _read_licence(card.parent)
    return _read_foreign(repo_id, open_source(repo_id, info.sha, client), None, num_heads, facts)


def _call_directory(directory: Path) -> str:
    """What a card calls a directory: a path would be one of this machine."""
    parent = f"{directory.resolve().parent.name}/" if directory.name.startswith("checkpoint-") else ""
    return f"{parent}{directory.resolve().name}"


def _is_own(config: Path) -> bool:
    values = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else None
    return isinstance(values, dict) and values.get("model_type") == SynCoConfig.model_type


def _read_licence(directory: Path) -> str | None:
    """What the facts or the card beside weights say."""
    facts, card = directory / FACTS_FILE, directory / "README.md"
    licence = read_facts(facts).licence if facts.is_file() else None
    if licence is None and card.is_file():
        licence = ModelCard.load(card, ignore_metadata_errors=True).data.to_dict().get("license")
    return None if licence is None else str(licence)


def _read_own(directory: Path, facts: dict[str, Any]) -> Start:
    """A checkpoint of this package: a backbone, a classifier or a pretraining state."""
    model: Any = AutoModel.from_pretrained(directory, dtype=torch.float32)
    if not isinstance(model, SynCoModel):
        raise ValueError(f"{directory} holds a {type(model).__name__}, which is no backbone to start from.")
    carried, dropped, state = {"backbone": len(model.state_dict())}, dict[str, int](), dict[str, Tensor]()
    for file in sorted(directory.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118
                part = key.partition(".")[0]
                if key.startswith(_STATE):
                    state[key] = tensors.get_tensor(key)
                elif not key.startswith(("backbone.", _BACKBONE)):
                    dropped[part] = dropped.get(part, 0) + 1
    has_processor = (directory / IMAGE_PROCESSOR_NAME).is_file()
    config = model.config
    processor = load_processor(str(directory)) if has_processor else None
    prepared = choose_preprocessing(None, processor, config.image_size, config.num_channels, told=True)
    rows = [
        {"what": part, "reason": _WHY_DROPPED.get(part, "no part of the network"), "tensors": count}
        for part, count in dropped.items()
    ]
    licence = _read_licence(directory)
    own = {"licence": licence, "pretraining": config.pretraining, "carried_over": carried, "dropped": rows}
    return Start(model, prepared.processor, {**facts, **own}, state)


def _read_foreign(
    name: str,
    source: CheckpointSource,
    revision: str | None,
    num_heads: int | None,
    facts: dict[str, Any] | None = None,
) -> Start:
    """What `convert` reads; a whole pretraining state where there is one."""
    if revision is not None:
        raise ValueError(f"revision {revision} of {name!r}: it is no repository of the Hub; leave the revision out.")
    _refuse_registers(name, source.content)
    told = bool(source.config) or source.kind == "timm"
    choices = Choices(num_heads=None if told else num_heads)
    try:
        try:
            whole = ConversionSettings(choices=choices, whole_pretraining_state=True)
            recognised, parts, converted, prepared = read_converted(source, whole)
        except ValueError:  # most files have none, or not all of it
            recognised, parts, converted, prepared = read_converted(source, ConversionSettings(choices=choices))
    except ValueError as error:
        further = " Those flags are of `synco-hub convert`, whose --output is a start." if "--" in str(error) else ""
        raise ValueError(f"{error}{further}") from None
    carried, dropped, _ = account(source, parts, converted.backbones, converted.state is not None, True)
    for part in sorted({"classifier", "target"} & set(carried) - {converted.branch[0]}):
        dropped.append({"what": part, "reason": _WHY_DROPPED[part], "tensors": carried.pop(part)})
    rows = [{key: row[key] for key in ("what", "reason", "tensors")} for row in dropped if row["tensors"]]
    if facts is None:
        is_timm = source.name.startswith(TIMM_PREFIX)
        known = find_revision(source.name).words if is_timm else "none: a file"
        called = find_timm_repository(source.name.removeprefix(TIMM_PREFIX)) if is_timm else Path(source.name).name
        facts = {"kind": "timm" if is_timm else "file", "revision": known, "base_model": called or source.name}
    if source.directory is not None and "licence" not in facts:
        facts = {**facts, "licence": _read_licence(source.directory)}
    model, layout = converted.model, recognised.layout
    state = {key: value for key, value in (converted.state or {}).items() if key.startswith(_STATE)}
    own = {
        "licence": facts.get("licence") or layout.licence,
        "layout": recognised.name,
        "branch": f"{converted.branch[0]} ({converted.branch[1]})",
        "pretraining": model.config.pretraining,
        "carried_over": carried,
        "dropped": rows,
    }
    return Start(model, prepared.processor, {**facts, **own}, state, source.kind != "transformers")


def _refuse_registers(name: str, content: Mapping[str, Any]) -> None:
    """A ViT with register tokens: no network of this package has them."""
    names = {str(key) for key in content} | {
        str(key) for value in content.values() if isinstance(value, Mapping) for key in value
    }
    if found := sorted(key for key in names if _REGISTERS.search(key)):
        raise ValueError(
            f"{name} has register tokens ({found[0]}), which no network of this package has: start from a release "
            "without them."
        )


def _interpolate(embedding: Tensor, grid: tuple[int, int], prefix: int, antialias: bool) -> Tensor:
    if antialias:
        return fit_position_embedding(embedding, grid, prefix, fixed=False)
    side = round((embedding.shape[1] - prefix) ** 0.5)
    table = embedding[:, prefix:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
    fitted = F.interpolate(table, size=grid, mode="bicubic", align_corners=False)
    return torch.cat([embedding[:, :prefix], fitted.flatten(2).transpose(1, 2)], dim=1)


@torch.no_grad()
def resize(
    model: SynCoModel, image_size: int | None, window_size: int | None = None, antialias: bool = True
) -> tuple[SynCoModel, str]:
    """The same network for another image or window size, and what was done to its positions."""
    own = model.config
    values = {name: getattr(own, name) for name in CONFIG_FIELDS if name not in ("classifier_dropout", "pretraining")}
    values["image_size"] = image_size or own.image_size
    if window_size is not None:
        values["window_size"] = window_size
    new: Any = SynCoModel(SynCoConfig(**values))
    state, done = model.state_dict(), []
    for key, wanted in new.state_dict().items():
        if state[key].shape == wanted.shape:
            continue
        if key == "backbone.pos_embed":
            grid = new.backbone.patch_embed.grid_size
            prefix = wanted.shape[1] - grid[0] * grid[1]
            state[key] = _interpolate(state[key], grid, prefix, antialias)
            done.append(f"positions interpolated from {own.image_size} pixels")
        elif key.endswith("relative_position_bias_table"):
            side = (round(wanted.shape[0] ** 0.5) + 1) // 2
            state[key] = resize_rel_pos_bias_table(state[key], (side, side), tuple(wanted.shape))
            done.append(f"bias tables interpolated from {own.image_size} pixels, windows of {own.window_size}")
    new.load_state_dict(state)
    new.freeze_fixed_parameters()
    return new, done[0] if done else "positions as they were"
