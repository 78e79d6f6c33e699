"""Export for sentence-transformers: `encode` of images gives the feature, by the image processor that belongs to it.

Where a stock `ViTModel` or `SwinModel` computes the same, the folder holds one and needs no code of ours. Where none
does, the folder holds the network as it is with the files of its code, for `trust_remote_code=True`.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from synco_hub.atomic_write import usual_modes
from synco_hub.hub.export.network import Exported, compared, export_processor
from synco_hub.hub.export.to_transformers import export_transformers
from synco_hub.hub.preprocessing import make_pair_pictures

_TOLERANCE = 1e-5
_MODULES = "sentence_transformers.{}"


def export_sentence_transformers(exported: Exported, directory: Path) -> dict[str, Any]:
    """Write a folder that `SentenceTransformer` loads, and compare what it gives where it is installed."""
    base = replace(exported, model=exported.model.synco) if exported.is_classifier else exported
    _check_views(base)
    try:
        facts = export_transformers(base, directory)
        is_stock = facts["exact"] and bool(facts["pictures"])
    except ValueError:  # no stock model computes this
        is_stock = False
    if not is_stock:
        for file in directory.iterdir():
            file.unlink()
        facts = _write_with_code(base, directory)
    _write_modules(directory, facts["class"], base.config.hidden_size)
    argument = "" if is_stock else ", trust_remote_code=True"
    how = (
        "from PIL import Image\nfrom sentence_transformers import SentenceTransformer\n\n"
        f'model = SentenceTransformer("DIRECTORY"{argument})\nvectors = model.encode([Image.open("image.jpg")])'
    )
    note = (
        "It needs sentence-transformers and torchvision, no code of synco-hub."
        if is_stock
        else "No stock model computes the same: the code travels with it (trust_remote_code=True) and needs timm."
    )
    facts |= {"how_to_load": how, "note": note, "remote_code": not is_stock}
    if importlib.util.find_spec("sentence_transformers") is None:
        facts["note"] += " It was not tried with sentence-transformers, which is not installed here."
    else:
        facts["difference"] = max(facts["difference"], _compare(base, directory, not is_stock))
    return facts


def _check_views(exported: Exported) -> None:
    """Refuse a processor whose views the network does not take as they are: `encode` asks for no interpolation."""
    size = exported.config.image_size
    for _, view in make_pair_pictures(exported.processor, size):
        height, width = view.shape[-2:]
        if (height, width) != (size, size):
            raise ValueError(
                f"{exported.name}: its image processor gives views of {height} x {width} pixels and its network takes "
                f"{size} x {size}: save the processor of the network's size beside it, then export."
            )


def _write_with_code(exported: Exported, directory: Path) -> dict[str, Any]:
    with usual_modes(directory):
        exported.model.save_pretrained(directory)
    export_processor(exported, directory)
    loaded = type(exported.model).from_pretrained(directory).eval()
    difference, _ = compared(exported, lambda images: loaded(pixel_values=images).pooler_output)
    return {"class": type(exported.model).__name__, "difference": difference, "exact": True}


def _write_modules(directory: Path, class_name: str, dim: int) -> None:
    """What sentence-transformers reads beside the model: a ViT's feature is its first token, others give theirs."""
    takes_token = class_name == "ViTModel"
    output, feature = (
        ("last_hidden_state", "token_embeddings") if takes_token else ("pooler_output", "sentence_embedding")
    )
    modules = [{"idx": 0, "name": "0", "path": "", "type": _MODULES.format("base.modules.transformer.Transformer")}]
    loading: dict[str, Any] = {
        "transformer_task": "feature-extraction",
        "modality_config": {"image": {"method": "forward", "method_output_name": output}},
        "module_output_name": feature,
    }
    if takes_token:
        # Without it the stock class makes a random pooler.
        loading["model_args"] = {"add_pooling_layer": False}
        place = "sentence_transformer.modules.pooling.Pooling"
        modules.append({"idx": 1, "name": "1", "path": "1_Pooling", "type": _MODULES.format(place)})
        (directory / "1_Pooling").mkdir()
        _write(directory / "1_Pooling" / "config.json", {"embedding_dimension": dim, "pooling_mode": "cls"})
    _write(directory / "modules.json", modules)
    _write(directory / "sentence_bert_config.json", loading)
    _write(
        directory / "config_sentence_transformers.json",
        {
            "model_type": "SentenceTransformer",
            "prompts": {},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
    )


def _write(file: Path, values: Any) -> None:
    file.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _compare(exported: Exported, directory: Path, trust_remote_code: bool) -> float:
    """Largest difference of `encode` of drawn pictures to the feature."""
    library: Any = importlib.import_module("sentence_transformers")
    model = library.SentenceTransformer(str(directory), device="cpu", trust_remote_code=trust_remote_code)
    pairs = make_pair_pictures(exported.processor, exported.config.image_size)
    mode = "L" if exported.config.num_channels == 1 else "RGB"  # its pictures, as `models.image_processor` says
    pictures = [picture.convert(mode) for picture, _ in pairs]
    found = model.encode(pictures, convert_to_tensor=True, show_progress_bar=False)
    features: list[Tensor] = [exported.outputs(view)[0] for _, view in pairs]
    scale = max(1.0, float(torch.stack(features).abs().max()))
    difference = max(float((ours - theirs).abs().max()) for ours, theirs in zip(features, found.cpu(), strict=True))
    if difference > _TOLERANCE * scale:
        raise ValueError(
            f"sentence-transformers gives vectors of {exported.name} that differ by {difference:.1e}: export to "
            "transformers, timm or onnx."
        )
    return difference
