"""Foreign checkpoints become checkpoints of this package: synco-v2's authors, MoBY, MoCo-v3, DINO, timm, stock models.

Every tensor of the file is carried over, or dropped for a reason that is written down; anything else is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from torch import Tensor

from synco_hub.atomic_write import atomic_write_directory, refuse_filled
from synco_hub.errors import join_names
from synco_hub.hub.conversion.configuration import (
    Choices,
    HeadsDecision,
    find_recorded_heads,
    infer_configuration,
    read_exported_configuration,
    read_stock_configuration,
    read_timm_arguments,
    refuse_other_pooling,
)
from synco_hub.hub.conversion.pretraining_state import collect_pretraining_state, find_pretraining_method
from synco_hub.hub.conversion.recognition import BACKBONES_OF_A_PAIR, Parts, Recognised, recognise, split_parts
from synco_hub.hub.conversion.report import (
    MAX_IMAGE_SIZE,
    ConversionReport,
    Converted,
    compute_feature_checksum,
    write_converted,
)
from synco_hub.hub.conversion.source import CheckpointSource, find_states, open_source, read_tensors
from synco_hub.hub.conversion.tensor_names import BackboneTensors, map_to_timm_names
from synco_hub.hub.conversion.weights import (
    finite,
    linear_head,
    list_expected_shapes,
    load_strictly,
    read_head,
    refuse_misfit,
)
from synco_hub.hub.export.to_transformers import from_stock_names
from synco_hub.hub.loading import LinearHead
from synco_hub.hub.model_names import TIMM_PREFIX
from synco_hub.hub.preprocessing import Preprocessing, choose_preprocessing, resize_preprocessing
from synco_hub.models import SynCoConfig, SynCoModel
from synco_hub.models.position_embedding_synco import (
    find_grid_side,
    fit_position_embedding,
    is_sincos_position_embedding,
)

_SHOWN = 20
# What DINO calls its two networks.
_OTHER_NAMES = {"student": "online", "teacher": "target"}
_NUMBERS = ("backbone", "image_size", "patch_size", "embed_dim", "depth", "num_heads", "window_size")


@dataclass(frozen=True)
class ConversionSettings:
    """What a user may decide.

    Attributes:
        layout: `auto`, or the name of a layout.
        branch: `online`, `target`, or the name of another copy of the network in the file, such as `model_ema`; None:
            the one that the project itself evaluates.
        whole_pretraining_state: Whether to carry over both networks, heads and queues.
        head: A file with a linear classifier for the backbone.
        choices: Backbone, heads, image size.
        preprocessing: `imagenet`, or where an image processor is; None: the source's own, ImageNet's if it has none.
        revision: Of a source on the Hub: branch, tag or commit.
    """

    layout: str = "auto"
    branch: str | None = None
    whole_pretraining_state: bool = False
    head: str | None = None
    choices: Choices = field(default_factory=Choices)
    preprocessing: str | None = None
    revision: str | None = None


def convert(
    source_name: str, output: Path, settings: ConversionSettings | None = None, api: HfApi | None = None
) -> ConversionReport:
    """Convert a checkpoint; nothing is written unless everything fits."""
    settings = settings or ConversionSettings()
    refuse_filled(output)
    if settings.head and settings.whole_pretraining_state:
        raise ValueError("A pretraining state has no classifier: give --head or --whole-pretraining-state, not both.")
    source = open_source(source_name, settings.revision, api)
    recognised, parts, converted, preprocessing = read_converted(source, settings)
    if settings.choices.image_size is not None:
        preprocessing = resize_preprocessing(preprocessing, settings.choices.image_size)
    report = _report(source, recognised, parts, settings.head is None, converted)
    with atomic_write_directory(output) as directory:
        report = write_converted(
            directory, output.absolute().name, source, recognised, converted, report, preprocessing
        )
    return report


def read_converted(
    source: CheckpointSource, settings: ConversionSettings
) -> tuple[Recognised, Parts, Converted, Preprocessing]:
    """The network of a foreign checkpoint and its image processor, as it was before another size is chosen for it."""
    recognised = recognise(source, settings.layout, settings.branch)
    parts = split_parts(source, recognised, settings.branch)
    if parts.leftover:
        raise ValueError(
            f"{source.name} has {len(parts.leftover)} tensors that do not belong to the layout {recognised.name!r}: "
            f"{join_names(sorted(parts.leftover), _SHOWN)}. Give the right --layout."
        )
    method = find_pretraining_method(recognised.name, parts.tensors, source.content.get("config"))
    converted = _convert_tensors(source, recognised, parts, settings, method)
    preprocessing = choose_preprocessing(
        settings.preprocessing,
        source.processor,
        converted.model.config.image_size,
        converted.model.config.num_channels,
        source.kind in ("transformers", "timm"),
    )
    return recognised, parts, converted, preprocessing


def _convert_tensors(
    source: CheckpointSource, recognised: Recognised, parts: Parts, settings: ConversionSettings, method: str | None
) -> Converted:
    branch = _branch(source, recognised, parts, settings)
    backbone = _rename_to_timm(source, parts.tensors[branch[0]])
    config, heads = _configuration(source, recognised, backbone, settings.choices)
    config.pretraining = {"method": method} if method else config.pretraining
    # Before it is built: a configuration may ask for any size, and only the tensors are as large as the file.
    shapes = list_expected_shapes(config, len(backbone.tensors))
    wanted = {key.removeprefix("backbone."): shape for key, shape in shapes.items()}
    refuse_other_pooling(source.config.get("model_args") or {}, config)
    if config.image_size <= MAX_IMAGE_SIZE:
        backbone = _fit_to_image_size(backbone, config, wanted)
    refuse_misfit(wanted, backbone.tensors, f"the {branch[0]} backbone")
    if config.image_size > MAX_IMAGE_SIZE:
        raise ValueError(
            f"image_size={config.image_size} is larger than {MAX_IMAGE_SIZE}, up to which a conversion is checked: "
            "give --image-size."
        )
    model: Any = SynCoModel(config)
    model.eval()
    load_strictly(model.backbone, backbone.tensors, f"the {branch[0]} backbone")
    backbones, state = {branch[0]: backbone}, None
    if settings.whole_pretraining_state:
        backbones["target"] = _target(parts, model, recognised, method)
        state, model.config.pretraining = collect_pretraining_state(backbones, parts.tensors, method or "")
    head = read_head(settings.head) if settings.head else _own_head(source, backbone)
    if head is not None and head.weight.shape[1] != model.config.hidden_size:
        raise ValueError(
            f"The head reads {head.weight.shape[1]} features, but the backbone gives {model.config.hidden_size}: it "
            "was trained on another feature (DINO's reads several blocks) or network."
        )
    return Converted(model, backbones, heads, branch, head, state)


def _fit_to_image_size(
    backbone: BackboneTensors, config: SynCoConfig, wanted: Mapping[str, tuple[int, ...]]
) -> BackboneTensors:
    """The tensors with the position embedding of a ViT computed or interpolated for another size than they have."""
    embedding, shape = backbone.tensors.get("pos_embed"), wanted.get("pos_embed", ())
    if not isinstance(embedding, Tensor) or embedding.ndim != 3 or tuple(embedding.shape) == shape:
        return backbone
    side = config.image_size // config.patch_size
    prefix = shape[1] - side * side
    old = find_grid_side(embedding.shape[1], prefix)
    if old is None or embedding.shape[-1] != shape[-1]:
        return backbone
    # One that was interpolated before stays on the scale that it was trained on.
    fixed = config.position_embedding == "sincos" and is_sincos_position_embedding(embedding, prefix)
    fitted = fit_position_embedding(finite("pos_embed", embedding), (side, side), prefix, fixed)
    how = "computed anew" if fixed else "interpolated"
    fact = f"the position embedding of {old} x {old} patches was {how} for {side} x {side}"
    return replace(backbone, tensors={**backbone.tensors, "pos_embed": fitted}, facts=[*backbone.facts, fact])


def _own_head(source: CheckpointSource, backbone: BackboneTensors) -> LinearHead | None:
    return linear_head(backbone.head, source.config.get("id2label")) if backbone.head else None


def _branch(
    source: CheckpointSource, recognised: Recognised, parts: Parts, settings: ConversionSettings
) -> tuple[str, str]:
    """Which backbone, and why."""
    there = [name for name in ("online", "target") if name in parts.tensors]
    if settings.whole_pretraining_state:
        return "online", "both are kept; features come from this one"
    wanted = settings.branch
    if wanted not in there and _OTHER_NAMES.get(str(wanted)) in there:
        wanted = _OTHER_NAMES[str(wanted)]
    if wanted in there:
        return str(wanted), "as given by --branch"
    if wanted is not None and wanted not in ("online", "target"):
        if not any(name == wanted or name.startswith(f"{wanted}.") for name in find_states(source)):
            known = join_names([*there, *parts.copies], 8)
            raise ValueError(f"branch={settings.branch!r} is unknown: the file has {known}.")
        return there[0], f"under {wanted!r}, as given by --branch"
    if wanted is not None:
        raise ValueError(f"The file has no {settings.branch} backbone, only {join_names([*there, *parts.copies], 8)}.")
    usual = recognised.layout.branch
    if usual in there and len(there) > 1:
        return usual, f"the one that {recognised.layout.source} evaluates"
    if parts.copies:
        return there[0], f"beside it the file has {join_names(parts.copies, 8)}, which --branch takes"
    return there[0], "the only one in the file"


def _rename_to_timm(source: CheckpointSource, found: dict[str, Any]) -> BackboneTensors:
    if source.kind != "transformers":
        return map_to_timm_names(found)
    family = str(source.config["model_type"])
    named, dropped = from_stock_names(family, found)
    backbone = map_to_timm_names(named)
    fact = "query, key and value of the stock model were joined"
    return BackboneTensors(backbone.tensors, backbone.head, {**dropped, **backbone.dropped}, [fact])


def _configuration(
    source: CheckpointSource, recognised: Recognised, backbone: BackboneTensors, choices: Choices
) -> tuple[SynCoConfig, HeadsDecision]:
    if source.kind == "transformers":
        return read_stock_configuration(source.config, backbone, choices)
    if "architecture" not in source.config and source.config:
        config = read_exported_configuration(source)
        return config, HeadsDecision(config.num_heads, "as the file says, which this package exported")
    named = source.name.removeprefix(TIMM_PREFIX) if source.name.startswith(TIMM_PREFIX) else None
    named = named or source.config.get("architecture")
    given = choices.num_heads
    if arguments := source.config.get("model_args"):
        choices = read_timm_arguments(arguments, str(named), choices)
    elif named and choices.backbone is None:
        # timm's own name may end in a tag of the weights.
        choices = Choices(str(named).split(".")[0], choices.num_heads, choices.image_size)
    model = (source.content.get("config") or {}) if isinstance(source.content.get("config"), dict) else {}
    config, heads = infer_configuration(
        backbone, recognised.name, recognised.layout, choices, find_recorded_heads(model)
    )
    if given is None and choices.num_heads is not None:
        heads = replace(heads, reason="as timm's config.json says")
    return config, heads


def _target(parts: Parts, model: Any, recognised: Recognised, method: str | None) -> BackboneTensors:
    """The target network of a whole pretraining state, known to fit."""
    if method is None or not {"online", "target"} <= set(parts.tensors):
        raise ValueError(
            f"The file, of the layout {recognised.name!r}, has no pretraining state that this package continues: both "
            "networks of synco-v2 or moby are needed. Leave --whole-pretraining-state out to convert the backbone."
        )
    target = map_to_timm_names(parts.tensors["target"])
    load_strictly(SynCoModel(model.config).backbone, target.tensors, "the target backbone")
    return target


def _report(
    source: CheckpointSource, recognised: Recognised, parts: Parts, own_head: bool, converted: Converted
) -> ConversionReport:
    layout, config = recognised.layout, converted.model.config
    whole = converted.state is not None
    mapped, dropped, total = account(source, parts, converted.backbones, whole, own_head)
    facts = converted.backbones[converted.branch[0]].facts
    return ConversionReport(
        source={
            "name": source.name if source.revision else Path(source.name).name,
            "kind": source.kind,
            "sha256": source.sha256,
            **({"revision": source.revision} if source.revision else {}),
        },
        layout={"name": recognised.name, "reason": recognised.reason, "source": layout.source},
        branch={"name": converted.branch[0], "reason": converted.branch[1]},
        backbone={name: getattr(config, name) for name in (*_NUMBERS, "position_embedding", "layer_norm_eps")},
        heads=asdict(converted.heads),
        mapped=mapped,
        renamed=[*facts, *(["queues (dim, size) became keys (size, dim)"] if whole and "queue" in mapped else [])],
        dropped=dropped,
        tensors_in_file=total,
        features=compute_feature_checksum(converted.model),
        licence={"id": layout.licence, "note": layout.licence_note},
    )


def account(
    source: CheckpointSource,
    parts: Parts,
    backbones: Mapping[str, BackboneTensors],
    whole: bool,
    own_head: bool,
) -> tuple[dict[str, int], list[dict[str, Any]], int]:
    """Count what is carried over and list what is not."""
    mapped: dict[str, int] = {}
    dropped: list[dict[str, Any]] = []
    for name, tensors in parts.tensors.items():
        if name in backbones:
            backbone = backbones[name]
            mapped[name] = len(tensors) - len(backbone.dropped) - len(backbone.head)
            dropped += _group_by_reason(name, backbone.dropped)
            if backbone.head and own_head:
                mapped["classifier"] = len(backbone.head)
            elif backbone.head:
                dropped.append(_row("classifier", "the one of --head is used", list(backbone.head)))
        elif whole:
            mapped[name] = len(tensors)
        else:
            reason = "the other network" if name in BACKBONES_OF_A_PAIR else "part of the pretraining state"
            dropped.append(_row(name, reason, list(tensors)))
    # Place by place: two names of a file can be one object.
    there = {str(key): sum(1 for _ in read_tensors(value)) for key, value in source.content.items()}
    for key, reason in parts.dropped.items():
        count = there[key] - parts.taken.get(key, 0)
        dropped.append({"what": key, "reason": reason, "tensors": count, "keys": []})
    total = sum(there.values())
    accounted = sum(mapped.values()) + sum(row["tensors"] for row in dropped)
    assert accounted == total, f"{accounted} of {total} tensors are accounted for"
    return mapped, dropped, total


def _group_by_reason(name: str, dropped: Mapping[str, str]) -> list[dict[str, Any]]:
    reasons = sorted(set(dropped.values()))
    return [_row(f"keys of {name}", why, [key for key in dropped if dropped[key] == why]) for why in reasons]


def _row(what: str, reason: str, keys: list[str]) -> dict[str, Any]:
    return {"what": what, "reason": reason, "tensors": len(keys), "keys": keys}
