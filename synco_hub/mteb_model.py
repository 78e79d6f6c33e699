"""Any model of `evaluate` in the image tasks of MTEB (MIEB): an encoder as `mteb.evaluate` takes one.

    import mteb
    from synco_hub.mteb_model import MtebImageModel

    mteb.evaluate(MtebImageModel("synco-v2-vit-nano"), mteb.get_tasks(["CIFAR10Clustering"]))

The vectors are those of `synco-hub embed`: the feature of k-NN, of images resized and cropped as the model wants them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from synco_hub.data.decoding import convert_to_rgb
from synco_hub.evaluation.measurement import EvaluatedModel, model_source
from synco_hub.feature_pooling import compute_image_features, find_feature_network, find_feature_rule
from synco_hub.features import AUTOCAST_TYPES, check_finite, check_precision, choose_device, eval_mode
from synco_hub.hub.loading import load_model
from synco_hub.hub.model_names import TIMM_PREFIX, find_revision
from synco_hub.settings import Precision

try:
    from mteb.models import ModelMeta
    from mteb.models.abs_encoder import AbsEncoder
    from mteb.models.model_meta import ScoringFunction
except ImportError as error:
    raise ImportError("synco_hub.mteb_model needs mteb 2.26 or newer: pip install 'synco-hub[mteb]'") from error


class MtebImageModel(AbsEncoder):  # type: ignore[misc]
    """A frozen model for `mteb.evaluate`; results are filed under its name and its commit, or the hash of its weights.

    Args:
        model: Short name, checkpoint directory, Hub id, or ``timm:<name>``.
        revision: Commit, branch or tag of a model on the Hub.
        device: None for the best there is.
        precision: Arithmetic of the network: fp32, bf16 or fp16.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        revision: str | None = None,
        device: str | None = None,
        precision: Precision = "fp32",
        **_: Any,
    ) -> None:
        name, self.device = os.fspath(model), choose_device(device)
        check_precision(precision, self.device)
        self.precision = precision
        found = find_revision(name, revision)
        network, processor = load_model(name, found.commit)
        self.model = EvaluatedModel(network, processor, name, (), found.words)
        self.rule = find_feature_rule(network)
        source = model_source(network, name, found.words, precision)
        with eval_mode(find_feature_network(network)) as running:
            blank = torch.zeros(1, *self.model.transform.shape, device=next(running.parameters()).device)
            dim = self._features(running, blank).shape[1]
        self.mteb_model_meta = ModelMeta.create_empty(
            {
                "name": _name_for_mteb(name),
                "revision": found.commit or source.weights,
                "modalities": ["image"],
                "model_type": ["dense"],
                "n_parameters": source.num_parameters,
                "embed_dim": dim,
                "framework": ["PyTorch"],
                "similarity_fn_name": ScoringFunction.COSINE,
                "use_instructions": False,
                "experiment_kwargs": None if precision == "fp32" else {"precision": precision},
            }
        )

    def encode(self, inputs: Any, *, task_metadata: Any, show_progress_bar: bool = True, **_: Any) -> Tensor:
        """Features of images, in their order.

        Args:
            inputs: Batches with a list of `image`s.
            task_metadata: The task, for the message.
            show_progress_bar: Show one.

        Returns:
            Shape: (images, dim), float32.
        """
        rows = []
        with eval_mode(find_feature_network(self.model.network), self.device) as network:
            for batch in tqdm(inputs, "images", disable=not show_progress_bar):
                rows.append(self._features(network, self._view(batch, task_metadata.name)).cpu())
        if not rows:
            raise ValueError(f"task {task_metadata.name} gave no image to embed: choose another split of it")
        values = torch.cat(rows)
        check_finite(values)
        return values

    def _view(self, batch: Mapping[str, Any], task: str) -> Tensor:
        if "image" not in batch:
            held = ", ".join(sorted(batch))
            raise ValueError(
                f"task {task} gives {held}: {self.model.name} embeds images; choose tasks of images alone"
            )
        return torch.stack([self.model.transform(convert_to_rgb(image)) for image in batch["image"]])

    def _features(self, network: Any, pixel_values: Tensor) -> Tensor:
        device, dtype = next(network.parameters()).device, AUTOCAST_TYPES[self.precision]
        with torch.inference_mode(), torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            return compute_image_features(network, pixel_values.to(device), self.rule).float()


def _name_for_mteb(name: str) -> str:
    """MTEB wants `organisation/name`; what is not on the Hub is ours."""
    if name.startswith(TIMM_PREFIX):
        return f"timm/{name.removeprefix(TIMM_PREFIX)}"
    return name if "/" in name and not Path(name).exists() else f"synco-hub/{Path(name).resolve().name}"
