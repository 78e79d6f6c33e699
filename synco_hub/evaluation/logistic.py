"""Logistic regression on frozen features: the strength of its penalty chosen on held-out training images.

Features are moved to mean 0 and divided by one number, the root of their mean variance, so that a penalty means the
same for every model. The L-BFGS of scikit-learn goes from the strongest penalty to the weakest, each from the weights
of the one before, to a tolerance at which its loss has settled; its own default is not enough. The chosen penalty is
fitted again to all training images.

Few-shot: so many images of each class, drawn several times; the mean with Student's interval of 95 % over the draws.

Source: Radford et al. 2021 (linear probes by L-BFGS); calibration as in Guo et al. 2017.
"""

from __future__ import annotations

import math
import statistics
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.linear_model import LogisticRegression
from tqdm import tqdm

from synco_hub.data.class_labels import number_alike, warn_of_untrained_classes
from synco_hub.evaluation.measurement import (
    EvaluatedModel,
    MeasuredSplit,
    find_standard_errors,
    measure_split,
    model_source,
    open_split,
    save_each,
)
from synco_hub.metrics import Reliability, measure_reliability, negative_log_likelihood, target_ranks
from synco_hub.results import EvaluationResult, ModelSource, ProtocolFacts, device_name, library_versions
from synco_hub.settings import DatasetChoice, LogisticSettings

# Inverse of the penalty of the mean loss, as scikit-learn's C is of the sum: from strong to weak.
STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
HELD_OUT = 0.2
TOLERANCE, MOST_STEPS = 1e-5, 2000
# Two-sided 95 % of Student's t for 1, 2, … degrees of freedom, then of the normal distribution.
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
_NORMAL = 1.96
NATS = "negative_log_likelihood"

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Fitted:
    """A classifier of standardised features.

    Attributes:
        mean: Of the features it was fitted to. Shape: (dim,).
        scale: What they are divided by.
        weight: Shape: (classes, dim).
        bias: Shape: (classes,).
        classes: Which classes the rows stand for, in rising order.
    """

    mean: Array
    scale: float
    weight: Array
    bias: Array
    classes: npt.NDArray[np.int64]

    def log_probabilities(self, values: Array, num_classes: int) -> torch.Tensor:
        """Ln p of every class; of one that it never saw -inf. Shape: (images, num_classes)."""
        logits = torch.from_numpy((values - self.mean) / self.scale @ self.weight.T + self.bias)
        found = torch.full((len(values), num_classes), -torch.inf, dtype=torch.float64)
        found[:, torch.from_numpy(self.classes)] = logits.log_softmax(dim=1)
        return found


def evaluate(
    model: EvaluatedModel, data: DatasetChoice, settings: LogisticSettings, output: Path | None = None
) -> EvaluationResult:
    """Measure a backbone."""
    train, test = (open_split(data, split, model) for split in ("train", "test"))
    for side in (train, test):
        side.images.require_labels("logistic regression")
    number_alike(train.images, test.images)
    warn_of_untrained_classes(train.images, test.images)
    _check_shots(train.images.labels, train.images.class_names, settings.shots or [])
    source = model_source(model.network, model.name, model.revision, settings.precision)
    bank, queries = (measure_split(model.network, side, settings) for side in (train, test))
    result, reliability = evaluate_logistic_features(bank, queries, source, settings)
    if settings.figure is not None:
        draw_reliability(reliability, result).savefig(settings.figure, dpi=120)
    return save_each([result], output)


def evaluate_logistic_features(
    bank: MeasuredSplit, queries: MeasuredSplit, model: ModelSource, settings: LogisticSettings
) -> tuple[EvaluationResult, Reliability]:
    """The second half of :func:`evaluate`, for features that are there already."""
    started = time.perf_counter()
    values, labels = bank.features.values.double().numpy(), bank.features.labels.numpy()
    asked, targets = queries.features.values.double().numpy(), queries.features.labels
    count, strengths = len(bank.class_names), sorted(settings.strength or STRENGTHS)
    if len(np.unique(labels)) < 2:
        raise ValueError(f"{bank.source.name}: its training images are of one class; a classifier needs two.")
    held_out = _choose(values, labels, strengths, count, settings)
    chosen = max(held_out, key=lambda strength: (held_out[strength], -strength))
    fitted, *_ = fit(values, labels, [chosen])
    found = fitted.log_probabilities(asked, count)
    reliability = measure_reliability(found.exp(), targets)
    ranks = target_ranks(found, targets)
    metrics = {"top1": 100.0 * float((ranks < 1).double().mean())}
    if count > 5:
        metrics["top5"] = 100.0 * float((ranks < 5).double().mean())
    notes = [f"strength {chosen:g} was chosen on {HELD_OUT:.0%} of the training images, test images chose nothing"]
    if chosen in (strengths[0], strengths[-1]) and len(strengths) > 1:
        notes.append(f"strength {chosen:g} is an end of the path: give others with --strength")
    metrics["expected_calibration_error"] = 100.0 * reliability.expected_calibration_error
    if bool(torch.isfinite(found.gather(1, targets[:, None])).all()):
        metrics[NATS] = negative_log_likelihood(found, targets)
    else:
        notes.append("no likelihood: the test images have classes that no training image has")
    for shots in settings.shots or []:
        metrics |= _measure_few(values, labels, asked, targets, shots, chosen, count, settings)
    result = EvaluationResult(
        metrics=metrics,
        model=model,
        dataset=queries.source,
        training_dataset=bank.source,
        protocol=ProtocolFacts(
            "logistic",
            {
                "strengths": strengths,
                "held_out_top1": {f"{strength:g}": value for strength, value in held_out.items()},
                "strength": chosen,
                "held_out": HELD_OUT,
                "features": "mean 0, divided by the root of their mean variance",
                "solver": f"L-BFGS of scikit-learn, tolerance {TOLERANCE:g}",
                "shots": list(settings.shots or []),
                "draws": settings.draws if settings.shots else 0,
            },
        ),
        preprocessing=queries.preprocessing,
        seed=settings.seed,
        versions=library_versions("scikit-learn"),
        device=device_name(settings.device or "cpu"),
        duration_s=time.perf_counter() - started,
        skipped_files=(*bank.skipped_files, *queries.skipped_files),
        standard_errors=find_standard_errors(
            {name: metrics[name] for name in ("top1", "top5") if name in metrics}, len(targets)
        ),
        notes=tuple(notes),
    )
    return result, reliability


def fit(values: Array, labels: npt.NDArray[np.int64], strengths: Sequence[float]) -> Iterator[Fitted]:
    """Fit one classifier a strength, from the strongest penalty to the weakest, each from the weights before.

    Minimises mean(−ln p) + |weight|² / (2 · strength).

    Args:
        values: Features. Shape: (images, dim).
        labels: Class indices of two classes or more. Shape: (images,).
        strengths: Inverse penalties, rising.
    """
    mean = values.mean(axis=0)
    scale = float(np.sqrt(((values - mean) ** 2).mean())) or 1.0
    standardised = (values - mean) / scale
    model: Any = LogisticRegression(tol=TOLERANCE, max_iter=MOST_STEPS, warm_start=True)
    for strength in strengths:
        model.C = strength / len(values)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what has not settled after so many steps is as good as it gets
            model.fit(standardised, labels)
        weight, bias = model.coef_, model.intercept_
        if len(model.classes_) == 2:  # of two classes it keeps one row
            weight, bias = np.vstack([-weight / 2, weight / 2]), np.concatenate([-bias / 2, bias / 2])
        yield Fitted(mean, scale, weight.copy(), bias.copy(), model.classes_.astype(np.int64))


def _choose(
    values: Array, labels: npt.NDArray[np.int64], strengths: Sequence[float], count: int, settings: LogisticSettings
) -> dict[float, float]:
    """Top-1 on held-out training images by strength; nothing is measured where there is nothing to choose."""
    if len(strengths) == 1:
        return {strengths[0]: 0.0}
    held = _draw_held_out(labels, settings.seed)
    paths = fit(values[~held], labels[~held], strengths)
    shown = tqdm(zip(strengths, paths, strict=True), "strengths", len(strengths), disable=not settings.progress)
    targets = torch.from_numpy(labels[held])
    return {
        strength: 100.0 * float((fitted.log_probabilities(values[held], count).argmax(1) == targets).double().mean())
        for strength, fitted in shown
    }


def _draw_held_out(labels: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.bool_]:
    """A share of each class; every class keeps an image that is learned from."""
    generator, held = np.random.default_rng(seed), np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        places = generator.permutation(np.flatnonzero(labels == label))
        held[places[: min(round(HELD_OUT * len(places)), len(places) - 1)]] = True
    if not held.any():
        held_class = np.flatnonzero(labels == np.bincount(labels).argmax())
        held[held_class[: len(held_class) // 2]] = True
    if not held.any():
        raise ValueError("no class has two training images, so none can be held out: give one --strength")
    return held


def _check_shots(labels: npt.NDArray[np.int64], names: Sequence[str], shots: Sequence[int]) -> None:
    counts = np.bincount(labels, minlength=len(names))
    for each in shots:
        lacking = [names[int(label)] for label in np.flatnonzero((counts > 0) & (counts < each))]
        if each < 1 or lacking:
            fault = (
                f"fewer training images have {len(lacking)} of the classes (first: {lacking[0]})"
                if lacking
                else "below 1"
            )
            raise ValueError(f"--shots {each}: {fault}; give a number that every class has.")


def _measure_few(
    values: Array,
    labels: npt.NDArray[np.int64],
    asked: Array,
    targets: torch.Tensor,
    shots: int,
    strength: float,
    count: int,
    settings: LogisticSettings,
) -> dict[str, float]:
    """Mean top-1 over draws of so many images a class, and half of its 95 % interval."""
    found = []
    for draw in tqdm(range(settings.draws), f"{shots} images a class", disable=not settings.progress):
        generator = np.random.default_rng((settings.seed, shots, draw))
        places = np.concatenate(
            [generator.choice(np.flatnonzero(labels == label), shots, replace=False) for label in np.unique(labels)]
        )
        fitted, *_ = fit(values[places], labels[places], [strength])
        guesses = fitted.log_probabilities(asked, count).argmax(1)
        found.append(100.0 * float((guesses == targets).double().mean()))
    name = f"top1_shots{shots}"
    if settings.draws == 1:
        return {name: found[0]}
    degrees = settings.draws - 1
    factor = _STUDENT[degrees - 1] if degrees <= len(_STUDENT) else _NORMAL
    half = factor * statistics.stdev(found) / math.sqrt(settings.draws)
    return {name: statistics.fmean(found), f"{name}_interval95": half}


def draw_reliability(reliability: Reliability, result: EvaluationResult) -> Figure:
    """Accuracy against confidence, and how many images there are of each."""
    figure = Figure(figsize=(4.2, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axis, below = figure.subplots(2, 1, height_ratios=[3, 1], sharex=True)
    bins = len(reliability.counts)
    centres, filled = (np.arange(bins) + 0.5) / bins, (reliability.counts > 0).numpy()
    axis.bar(centres[filled], reliability.accuracy.numpy()[filled], width=0.9 / bins, label="accuracy")
    axis.plot(
        reliability.confidence.numpy()[filled], reliability.accuracy.numpy()[filled], "o-", color="C1", markersize=3
    )
    axis.plot([0, 1], [0, 1], "--", color="grey", linewidth=1, label="as sure as right")
    axis.set_ylabel("accuracy")
    axis.legend(fontsize=7)
    error = result.metrics["expected_calibration_error"]
    axis.set_title(
        f"{result.model.name} on {result.dataset.name}\nexpected calibration error {error:.1f} %", fontsize=8
    )
    below.bar(centres, reliability.counts.numpy(), width=0.9 / bins, color="grey")
    below.set_xlabel("confidence (highest probability)")
    below.set_ylabel("images")
    return figure


def format_table(result: EvaluationResult) -> str:
    """The numbers, with their units."""
    about = f"{result.dataset.count} test images of {result.dataset.name}"
    lines = [f"{result.model.name}: feature: {result.model.feature}; {about}"]
    for name, value in result.metrics.items():
        if name.endswith("_interval95"):
            continue
        if name == NATS:
            lines.append(f"  {name:<28} {value:7.4f} nats")
            continue
        half = result.metrics.get(f"{name}_interval95")
        error = result.standard_errors.get(name)
        more = (
            f" ± {half:.2f} (95 % over draws)" if half is not None else f" ± {error:.2f}" if error is not None else ""
        )
        lines.append(f"  {name:<28} {value:7.2f} %{more}")
    return "\n".join(lines)
