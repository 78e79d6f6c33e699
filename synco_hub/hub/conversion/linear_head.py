"""A trained linear classifier in a foreign checkpoint, and the names of its classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timm.data.imagenet_info import ImageNetInfo
from torch import Tensor

from synco_hub.errors import join_names
from synco_hub.hub.classifier import LinearHead
from synco_hub.hub.conversion.source import open_source
from synco_hub.hub.conversion.strict_loading import finite

# What projects call the layer, most telling first.
_LAYERS = ("head.fc", "head", "linear", "classifier", "fc", "")
_IMAGENET_CLASSES = 1000


def head_of_file(name: str) -> LinearHead:
    """The linear layer of a file that a linear probe wrote; other weights in it are not looked at.

    Args:
        name: A file of torch or .safetensors.

    Raises:
        ValueError: If there is no such layer in it.
    """
    content: Mapping[str, Any] = open_source(name).content
    nested = [content[key] for key in ("model", "state_dict") if isinstance(content.get(key), Mapping)]
    state = {str(key).removeprefix("module."): value for key, value in (nested or [content])[0].items()}
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
    """A linear classifier of its two tensors.

    Args:
        found: `weight` (num_classes, dim) and `bias` (num_classes,).
        names: Index, as text, to name of a class, where the file knows them (`id2label`).

    Raises:
        ValueError: If the shapes are not those, or a number is not finite.
    """
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
