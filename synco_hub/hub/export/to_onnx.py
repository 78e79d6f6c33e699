"""Export to ONNX with a free batch size, checked with onnxruntime."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from synco_hub.hub.export.network import Exported, compare_pairs, compared, export_processor

_TOLERANCE = 1e-4
_BATCHES = (1, 3)
_NEEDED = ("onnx", "onnxscript", "onnxruntime")


class _Plain(nn.Module):
    """The model with tensors in and a tuple of tensors out."""

    def __init__(self, exported: Exported) -> None:
        super().__init__()
        self.model = exported.model
        self.names = ("logits",) if exported.is_classifier else ("last_hidden_state", "pooler_output")

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        outputs = self.model(pixel_values=pixel_values)
        return tuple(getattr(outputs, name) for name in self.names)


def export_onnx(exported: Exported, directory: Path) -> dict[str, Any]:
    """Write `model.onnx` and the preprocessing, and run it at two batch sizes."""
    if lacking := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        raise ImportError(f"{', '.join(lacking)} not installed, which ONNX needs: pip install 'synco-hub[onnx]'")
    runtime: Any = importlib.import_module("onnxruntime")  # an optional extra
    config, network = exported.config, _Plain(exported).eval()
    side = config.image_size
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own deprecations inside its exporter
        program: Any = torch.onnx.export(
            network,
            (torch.zeros(2, config.num_channels, side, side),),
            dynamo=True,
            verbose=False,
            input_names=["pixel_values"],
            output_names=list(network.names),
            dynamic_shapes={"pixel_values": {0: torch.export.Dim("batch")}},
        )
    program.save(directory / "model.onnx")
    view = export_processor(exported, directory)
    session = runtime.InferenceSession(str(directory / "model.onnx"), providers=["CPUExecutionProvider"])

    def outputs(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run([network.names[-1]], {"pixel_values": images.numpy()})[0])

    differences = {}
    for batch in _BATCHES:
        difference, scale = compared(exported, outputs, batch)
        differences[f"batch of {batch}"] = difference
        if difference > _TOLERANCE * max(1.0, scale):
            raise ValueError(f"onnxruntime gives outputs that differ by {difference:.1e} at a batch of {batch}.")
    return {
        "difference": max(differences.values()),
        "exact": True,
        "batches": differences,
        "outputs": list(network.names),
        "pictures": compare_pairs(exported, outputs, view),
        "opset": int(program.model.opset_imports.get("", 0)),
        "how_to_load": (
            "import onnxruntime\n\n"
            'session = onnxruntime.InferenceSession("DIRECTORY/model.onnx")\n'
            f'{", ".join(network.names)} = session.run(None, {{"pixel_values": images}})'
            f"  # (batch, {config.num_channels}, {side}, {side}) float32"
        ),
    }
