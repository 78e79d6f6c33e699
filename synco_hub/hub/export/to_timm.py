"""Export for timm, and as one plain file of tensors under timm's names."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import timm
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TimmWrapperImageProcessor

from synco_hub.data.evaluation_transform import make_view
from synco_hub.hub.export.network import (
    Exported,
    compare_pairs,
    compared,
    export_processor,
    layer_norm_epsilons,
    make_plain_config,
)
from synco_hub.hub.preprocessing import translate_to_timm
from synco_hub.models.backbones_synco import find_specification, make_timm_arguments

_TOLERANCE = 1e-5
_ROUNDING = (
    "timm resizes images with Pillow, which rounds a few pixels to the next grey level, and where half a pixel is "
    "left beside the crop, the crop may lie one pixel further."
)
# What a config.json of timm has elsewhere, or what changes no feature.
_NOT_ARGUMENTS = ("model_name", "num_classes", "drop_path_rate", "weight_init", "dynamic_img_size", "strict_img_size")


def make_timm_state(exported: Exported) -> dict[str, Tensor]:
    """The backbone's tensors, and those of the classifier, as timm names them."""
    place = "head.fc" if find_specification(exported.config.backbone).family == "swin" else "head"
    head = {f"{place}.{kind}": tensor for kind, tensor in (exported.head or {}).items()}
    state = {**exported.backbone.state_dict(), **head}
    return {key: tensor.detach().clone().contiguous() for key, tensor in state.items()}


def export_timm(exported: Exported, directory: Path) -> dict[str, Any]:
    """Write a folder that `timm.create_model("local-dir:…")` loads."""
    config = exported.config
    arguments = make_timm_arguments(config)
    architecture = arguments["model_name"]
    own = {key: value for key, value in arguments.items() if key not in _NOT_ARGUMENTS}
    num_classes = config.num_labels if exported.is_classifier else 0
    values: dict[str, Any] = {
        "architecture": architecture,
        "num_classes": num_classes,
        "num_features": config.hidden_size,
        "model_args": own,
        "pretrained_cfg": {**translate_to_timm(exported.processor), "num_classes": num_classes},
        # What timm does not read: everything that this package needs to take the weights back.
        "synco_config": make_plain_config(config),
    }
    if exported.is_classifier:
        values["label_names"] = [config.id2label[index] for index in range(num_classes)]
    (directory / "config.json").write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    save_file(make_timm_state(exported), directory / "model.safetensors", {"format": "pt"})
    return _checked(exported, directory, values, {"num_classes": num_classes, **own})


def _checked(exported: Exported, directory: Path, values: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
    architecture, said = values["architecture"], values["pretrained_cfg"]
    network = timm.create_model(architecture, **arguments).eval()
    network.load_state_dict(load_file(directory / "model.safetensors"), strict=True)
    mixed = layer_norm_epsilons(network) != layer_norm_epsilons(exported.backbone)
    difference, scale = compared(exported, lambda images: _outputs(network, images, exported.is_classifier))
    if difference > _TOLERANCE * max(1.0, scale) and not mixed:
        raise ValueError(f"timm's {architecture} gives features that differ by {difference:.1e}: export to onnx.")
    view = partial(make_view, TimmWrapperImageProcessor(said))
    pictures = compare_pairs(exported, lambda images: _outputs(network, images, exported.is_classifier), view)
    facts: dict[str, Any] = {"architecture": architecture, "difference": difference, "exact": not mixed}
    facts |= {"pictures": pictures, "note": _ROUNDING}
    lines = [
        "import timm",
        "",
        'model = timm.create_model("local-dir:DIRECTORY", pretrained=True).eval()',
        "features = model.forward_head(model.forward_features(images), pre_logits=True)",
    ]
    if mixed:
        facts["note"] += (
            " The norms' epsilons are not timm's, and timm's file cannot say so: features differ by up to "
            f"{difference:.1e} unless they are set after loading, as shown."
        )
        lines[3:3] = _epsilon_lines(exported.backbone)
    return {**facts, "how_to_load": "\n".join(lines)}


def _epsilon_lines(network: nn.Module) -> list[str]:
    """Code that sets each norm's epsilon."""
    epsilons = layer_norm_epsilons(network)
    common = max(set(epsilons.values()), key=list(epsilons.values()).count)
    others: dict[float, list[str]] = {}
    for name, eps in epsilons.items():
        if eps != common:
            others.setdefault(eps, []).append(name)
    lines = ["for name, module in model.named_modules():", "    if type(module).__name__.startswith('LayerNorm'):"]
    lines.append(f"        module.eps = {common}")
    for eps, names in others.items():
        ends = sorted({name.rsplit(".", 1)[-1] for name in names})
        same = [name for name in epsilons if name.rsplit(".", 1)[-1] in ends]
        chosen = f"name.rsplit('.', 1)[-1] in {ends}" if sorted(same) == sorted(names) else f"name in {names}"
        lines += [f"        if {chosen}:", f"            module.eps = {eps}"]
    return lines


def _outputs(network: Any, images: Tensor, logits: bool) -> Tensor:
    features = network.forward_features(images)
    return network.forward_head(features, pre_logits=not logits)


def export_safetensors(exported: Exported, directory: Path) -> dict[str, Any]:
    """Write one file of tensors under timm's names; what the shapes do not tell stands in its metadata."""
    config = make_plain_config(exported.config)
    export_processor(exported, directory)
    facts = {"format": "pt", "num_heads": json.dumps(config["num_heads"]), "synco_config": json.dumps(config)}
    state = make_timm_state(exported)
    save_file(state, directory / "backbone.safetensors", facts)
    read = load_file(directory / "backbone.safetensors")
    difference = max(float((read[key] - state[key]).abs().max()) for key in state)
    return {
        "difference": difference,
        "exact": True,
        "note": f"{len(state)} tensors; {config['num_heads']} attention heads, which no shape tells.",
        "how_to_load": (
            "from safetensors.torch import load_file\n\n"
            'tensors = load_file("DIRECTORY/backbone.safetensors")  # names are timm\'s'
        ),
    }
