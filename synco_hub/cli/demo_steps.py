"""The steps of `synco-hub demo` that need torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from synco_hub.cli.evaluation_inputs import DataChoice, best_device, evaluation_split
from synco_hub.data import load_dataset
from synco_hub.evaluation import evaluate_knn
from synco_hub.features import ExtractionSettings
from synco_hub.hub.card.model_card import write_card
from synco_hub.hub.loading import load_model
from synco_hub.hub.pull import install_checkpoint
from synco_hub.models import SynCoConfig, SynCoModel, image_processor
from synco_hub.results import EvaluationResult
from synco_hub.visualization import attention_figure, attention_maps, denormalised, save_figure

RESULT_FILE = "results_knn_fractals.json"


def random_network(seed: int) -> SynCoModel:
    """The network of the demonstration before any training."""
    torch.manual_seed(seed)
    return SynCoModel(SynCoConfig(backbone="vit-nano"))


def measure(model: Any, name: str) -> EvaluationResult:
    """k-NN accuracy on the held-out fractals."""
    processor = image_processor(model.config.image_size)
    train, test = (evaluation_split(DataChoice(), split, processor) for split in ("train", "test"))
    settings = ExtractionSettings(num_workers=0, device=best_device(None), progress=False)
    return evaluate_knn(model, train, test, settings=settings, model_name=name)


def finish(run: Path) -> tuple[str, EvaluationResult]:
    """Measure the finished run, put the number on its card, install it.

    Args:
        run: The output directory of the pretraining.

    Returns:
        The short name it is installed by, and its result.
    """
    model, _ = load_model(str(run))
    result = measure(model, run.name)
    result.save(run / RESULT_FILE)
    settings = json.loads((run / "pretraining_settings.json").read_text())
    write_card(run, run.name, model.config.to_dict(), settings, [result])
    install_checkpoint(run, run.name)
    return run.name, result


def attention_example(name: str, directory: Path) -> Path:
    """Load the installed checkpoint by its short name and draw what it attends to in a held-out fractal."""
    model, processor = load_model(name)
    image = load_dataset("fractals", "test", image_size=model.config.image_size).load_image(0)
    pixels = processor(image, return_tensors="pt").pixel_values
    shown = denormalised(pixels[0], processor.image_mean, processor.image_std)
    return save_figure(attention_figure(shown, attention_maps(model, pixels)), directory / f"{name}-attention.png")
