"""The runs of an ablation, measured by k-NN: the steps of `synco-hub ablate` that need torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from synco_hub.cli.ablation_table import FinishedRun
from synco_hub.cli.evaluation_inputs import DataChoice, best_device, evaluation_split
from synco_hub.evaluation import evaluate_knn
from synco_hub.features import ExtractionSettings
from synco_hub.hub.loading import load_model
from synco_hub.models import SynCoModel
from synco_hub.results import EvaluationResult

RESULT_FILE = "results_knn.json"
UNTRAINED = "untrained"
UNTRAINED_RESULT_FILE = "results_knn_untrained.json"
PROBE_METRIC = "top1_last_epoch"


def finished_run(arm: str, seed: int, directory: Path, dataset: str, probe: Path | None = None) -> FinishedRun:
    """Measure a trained run, or read what was measured.

    Args:
        arm: Method or recipe.
        seed: Its seed.
        directory: Its output directory.
        dataset: What it was trained on, and is measured on.
        probe: Result of its linear probe, if it was probed.

    Raises:
        ValueError: If the probe has no top-1 accuracy.
    """
    if not (directory / RESULT_FILE).is_file():
        model, processor = load_model(str(directory))
        _measured(model, processor, dataset, directory.name).save(directory / RESULT_FILE)
    result = EvaluationResult.load(directory / RESULT_FILE, "knn")
    seconds = json.loads((directory / "pretraining_summary.json").read_text())["seconds"]
    return FinishedRun(arm, seed, dict(result.metrics), float(seconds), None if probe is None else _top1(probe))


def _top1(file: Path) -> float:
    metrics = EvaluationResult.load(file).metrics
    if PROBE_METRIC not in metrics:
        raise ValueError(f"{file} has no {PROBE_METRIC}: --probe none, or a data set with one label an image.")
    return float(metrics[PROBE_METRIC])


def untrained_run(seed: int, like: Path, dataset: str) -> FinishedRun:
    """Measure a network with random weights of the seed, of the same architecture as a finished run.

    Args:
        seed: Seed of the weights.
        like: Output directory of a finished run; the result is kept there.
        dataset: What it is measured on.
    """
    if not (like / UNTRAINED_RESULT_FILE).is_file():
        trained, processor = load_model(str(like))
        torch.manual_seed(seed)
        _measured(SynCoModel(trained.config), processor, dataset, UNTRAINED).save(like / UNTRAINED_RESULT_FILE)
    result = EvaluationResult.load(like / UNTRAINED_RESULT_FILE, "knn")
    return FinishedRun(UNTRAINED, seed, dict(result.metrics), 0.0)


def _measured(model: Any, processor: Any, dataset: str, name: str) -> EvaluationResult:
    train, test = (evaluation_split(DataChoice(dataset), split, processor) for split in ("train", "test"))
    settings = ExtractionSettings(num_workers=0, device=best_device(None), progress=False)
    return evaluate_knn(model, train, test, settings=settings, model_name=name)
