"""Every tensor of a network or none: what is missing, left over, wrong-shaped or spoilt is an error that names it.

Anybody can write any number into a configuration; only the tensors of a file are paid for in bytes. So what a file
claims about its network is compared with what it holds, by shapes alone, before memory is taken for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from timm.data.imagenet_info import ImageNetInfo
from torch import Tensor, nn

from synco_hub.errors import escape, join_names
from synco_hub.hub.conversion.source import choose_state, open_source
from synco_hub.hub.loading import LinearHead
from synco_hub.models import SynCoConfig, SynCoForImageClassification, SynCoModel

Shapes = dict[str, tuple[int, ...]]
_SHOWN_OF_DIRECTORY = 5
_MODELS: dict[str, Any] = {
    "SynCoModel": SynCoModel,
    "SynCoForImageClassification": SynCoForImageClassification,
}
# The class itself lives with the trainers, which nothing here may import.
PRETRAINING_ARCHITECTURE = "SynCoForPreTraining"
_PRETRAINING_PARTS = ("projector.", "target_projector.", "predictor.", "queue_1.", "queue_2.")
# Buffers that no file holds (Swin's window indices) grow with the window alone; a window of 24 needs 2^23 numbers.
_MOST_BUFFER_NUMBERS = 1 << 28
# What projects call the layer, most telling first.
_LAYERS = ("head.fc", "head", "linear", "classifier", "fc", "")
_IMAGENET_CLASSES = 1000


def check_depth(depth: Any, num_tensors: int) -> None:
    """Refuse more blocks than there are tensors, of which every block has several."""
    stages = depth if isinstance(depth, (list, tuple)) else [depth]
    if not all(type(blocks) is int for blocks in stages):
        raise ValueError(f"depth={depth!r:.60} is neither a whole number nor a list of them.")
    if max(len(stages), *stages, sum(stages)) > num_tensors:
        raise ValueError(f"depth={depth!r:.60} needs more weights than the {num_tensors} tensors that are there.")


def list_expected_shapes(config: SynCoConfig, num_tensors: int, model_class: Any = SynCoModel) -> Shapes:
    """Key to shape of a network of this configuration, which may have no more blocks than there are tensors."""
    check_depth(config.depth, num_tensors)
    try:
        with torch.device("meta"):
            model = model_class(config)
    except (RuntimeError, TypeError, OverflowError, AttributeError) as error:  # as timm and torch refuse numbers
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"no network of this configuration can be built ({reason}): correct its numbers.") from error
    if (numbers := sum(buffer.numel() for buffer in model.buffers())) > _MOST_BUFFER_NUMBERS:
        raise ValueError(f"window_size={config.window_size} needs {numbers} indices beside the weights: too many.")
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def describe_misfit(
    wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], most: int = 20
) -> str:
    """What is missing, left over and wrong-shaped, first keys of each; empty if everything fits."""
    faults = {
        "missing": sorted(set(wanted) - set(found)),
        "left over": sorted(set(found) - set(wanted)),
        "wrong-shaped": [
            f"{key} {found[key]} instead of {wanted[key]}"
            for key in sorted(set(found) & set(wanted))
            if found[key] != wanted[key]
        ],
    }
    return "; ".join(f"{len(keys)} {fault}: {join_names(keys, most)}" for fault, keys in faults.items() if keys)


def describe_directory_misfit(directory: Path) -> str:
    """Why the weights of a checkpoint directory are not those of its `config.json`; empty if they are.

    Configurations of other model types are nothing that this package builds, so only that weights are there is asked.
    """
    files = [file for file in sorted(directory.glob("model*.safetensors")) if file.is_file()]
    if not files:
        return "there is no model.safetensors, so it holds no weights of the model that its config.json describes"
    values = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    if not isinstance(values, dict) or values.get("model_type") != SynCoConfig.model_type:
        return ""
    found: Shapes = {}
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            found |= {key: tuple(tensors.get_slice(key).get_shape()) for key in tensors.keys()}  # noqa: SIM118
    try:
        if values.get("depth") is not None:
            check_depth(values["depth"], len(found))
        wanted, compared = _wanted(SynCoConfig.from_pretrained(directory), values.get("architectures"), found)
    except (ValueError, TypeError, OverflowError, AttributeError) as error:
        return f"config.json describes no network for these weights: {' '.join(str(error).split()).rstrip('.')}"
    fault = describe_misfit(wanted, compared, _SHOWN_OF_DIRECTORY)
    return f"the weights are not those of config.json ({fault})" if fault else ""


def _wanted(config: Any, architectures: Any, found: Shapes) -> tuple[Shapes, Shapes]:
    """What must be there, and what of the weights is compared with it."""
    name = architectures[0] if isinstance(architectures, list) and architectures else None
    if name in _MODELS:
        return list_expected_shapes(config, len(found), _MODELS[name]), found
    if name != PRETRAINING_ARCHITECTURE:
        raise ValueError(
            f"architectures={architectures!r:.80} names none of {', '.join([*_MODELS, PRETRAINING_ARCHITECTURE])}"
        )
    backbone = list_expected_shapes(config, len(found))
    wanted = {f"{branch}.{key}": shape for branch in ("synco", "target") for key, shape in backbone.items()}
    # Heads and queues are the trainers' affair: their settings are not the backbone's.
    return wanted, {key: shape for key, shape in found.items() if not key.startswith(_PRETRAINING_PARTS)}


def load_strictly(module: nn.Module, found: Mapping[str, Any], what: str) -> None:
    """Load tensors, every one of them and no other."""
    wanted = module.state_dict()
    refuse_misfit({key: tuple(value.shape) for key, value in wanted.items()}, found, what)
    read = {key: finite(key, value) for key, value in found.items()}
    module.load_state_dict({key: value.to(wanted[key].dtype) for key, value in read.items()})


def refuse_misfit(wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, Any], what: str) -> None:
    """Refuse tensors that are not those of a network."""
    if fault := describe_misfit(wanted, {key: tuple(value.shape) for key, value in found.items()}):
        raise ValueError(
            f"The tensors of {what} do not fit ({fault}). Nothing was written: give the right --layout, --backbone, "
            "--image-size or file."
        )


def finite(key: str, tensor: Tensor) -> Tensor:
    """The tensor itself, unless it holds NaN or infinities."""
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{escape(key)} holds NaN or infinite numbers: the file is spoilt, nothing was written.")
    return tensor


def read_head(name: str) -> LinearHead:
    """The linear layer of a file that a linear probe wrote; other weights in it are not looked at."""
    state = choose_state(open_source(name), ("model", "state_dict"))[1].tensors
    for layer in _LAYERS:
        dot = "." if layer else ""
        found = {kind: state.get(f"{layer}{dot}{kind}") for kind in ("weight", "bias")}
        if all(isinstance(tensor, Tensor) for tensor in found.values()):
            return linear_head(found)
    raise ValueError(
        f"{name} has no linear layer (looked for {', '.join(f'{layer}.weight' for layer in _LAYERS if layer)} with a "
        f"bias; its first keys are {join_names(sorted(state), 5)}): give the file of a linear probe."
    )


def linear_head(found: Mapping[str, Any], names: Mapping[str, str] | None = None) -> LinearHead:
    """A linear classifier of its `weight` (num_classes, dim) and `bias` (num_classes,)."""
    shapes = {kind: tuple(tensor.shape) for kind, tensor in found.items()}
    weight, bias = shapes.get("weight", ()), shapes.get("bias", ())
    if len(weight) != 2 or bias != weight[:1]:
        raise ValueError(f"The head has shapes {shapes}, but weight (classes, dim) and bias (classes,) are due.")
    tensors: dict[str, Tensor] = {kind: finite(f"head.{kind}", t).float() for kind, t in found.items()}
    known = [(names or {}).get(str(index)) for index in range(weight[0])]
    labels = [str(name) for name in known] if all(known) else class_names(weight[0])
    return LinearHead(tensors["weight"], tensors["bias"], labels)


def class_names(count: int) -> list[str]:
    """Names of classes that a checkpoint only counts: ImageNet's for 1000, else `class 0`, …."""
    if count != _IMAGENET_CLASSES:
        return [f"class {index}" for index in range(count)]
    info = ImageNetInfo()
    # Two pairs of classes share their first name, so the wnid tells them apart.
    return [f"{info.index_to_description(index)} ({info.index_to_label_name(index)})" for index in range(count)]
