"""Logistic regression on frozen features: the strength of its penalty chosen on held-out training images.

Features are moved to mean 0 and divided by one number, the root of their mean variance, so that a penalty means the
same for every model. L-BFGS goes from the strongest penalty to the weakest, each from the weights of the one before,
to a tolerance at which the loss has settled. It is scikit-learn's, whose own tolerance is not enough, and on a CUDA
device torch's, for the same loss in float64. The chosen penalty is fitted again to all training images.

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
from scipy.stats import t as student
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F
from tqdm import tqdm

from synco_hub.data.real_labels import RealLabels
from synco_hub.evaluation.measurement import (
    REAL,
    EvaluatedModel,
    MeasuredSplit,
    check_splits_alike,
    find_standard_errors,
    match_classes,
    measure_split,
    model_source,
    open_split,
    result_of_splits,
    save_each,
)
from synco_hub.metrics import (
    Reliability,
    hits_any_target,
    measure_reliability,
    negative_log_likelihood,
    target_ranks,
)
from synco_hub.results import EvaluationResult, ModelSource, ProtocolFacts, library_versions
from synco_hub.settings import DatasetChoice, LogisticSettings

# Inverse of the penalty of the mean loss, as scikit-learn's C is of the sum: from strong to weak.
STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
HELD_OUT = 0.2
TOLERANCE, MOST_STEPS = 1e-5, 2000
# Logits that are in memory at once.
_LOGITS_TOGETHER = 1 << 26
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
        settled: Whether the loss was at its minimum when the steps were over.
    """

    mean: Array
    scale: float
    weight: Array
    bias: Array
    classes: npt.NDArray[np.int64]
    settled: bool = True

    def logits(self, values: Array) -> torch.Tensor:
        """Shape: (images, len(classes))."""
        return torch.from_numpy((values - self.mean) / self.scale @ self.weight.T + self.bias)

    def accuracy(self, values: Array, targets: npt.NDArray[np.int64]) -> float:
        """Share of images, in percent, whose likeliest class is their own."""
        size = max(1, _LOGITS_TOGETHER // len(self.classes))
        blocks = (self.logits(values[start : start + size]).argmax(1) for start in range(0, len(values), size))
        return 100.0 * float((self.classes[torch.cat(list(blocks)).numpy()] == targets).mean())

    def log_probabilities(self, values: Array, num_classes: int) -> torch.Tensor:
        """Ln p of every class; of one that it never saw -inf. Shape: (images, num_classes)."""
        found = torch.full((len(values), num_classes), -torch.inf, dtype=torch.float64)
        found[:, torch.from_numpy(self.classes)] = self.logits(values).log_softmax(dim=1)
        return found


def evaluate(
    model: EvaluatedModel, data: DatasetChoice, settings: LogisticSettings, output: Path | None = None
) -> EvaluationResult:
    """Measure a backbone."""
    train, test = (open_split(data, split, model) for split in ("train", "test"))
    match_classes(train.images, test.images, "logistic regression")
    _check_labels(train.images.labels, train.images.class_names, settings, train.images.description.name)
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
    started, device = time.perf_counter(), settings.device or "cpu"
    check_splits_alike(bank.class_names, queries.class_names)
    values, labels = bank.features.values.double().numpy(), bank.features.labels.numpy()
    asked, targets = queries.features.values.double().numpy(), queries.features.labels
    count, strengths = len(bank.class_names), sorted(settings.strength or STRENGTHS)
    # Once more: of the images that could be read.
    _check_labels(labels, bank.class_names, settings, bank.source.name)
    held_out = _choose(values, labels, strengths, settings)
    chosen = max(strengths, key=lambda strength: (held_out.get(strength, 0.0), -strength))
    fitted, *_ = fit(values, labels, [chosen], device)
    found = fitted.log_probabilities(asked, count)
    reliability = measure_reliability(found.exp(), targets)
    metrics = _measure_accuracies(found, targets, queries.real)
    errors = find_standard_errors(metrics, len(targets), queries.real)
    by = f"chosen on {HELD_OUT:.0%} of the training images, test images chose nothing" if held_out else "given"
    notes = [f"strength {chosen:g} was {by}"]
    if chosen in (strengths[0], strengths[-1]) and len(strengths) > 1:
        end, further = ("strongest penalty", "smaller") if chosen == strengths[0] else ("weakest penalty", "larger")
        notes.append(f"strength {chosen:g} is the {end} that was tried: give {further} ones with --strength")
    if not fitted.settled:
        notes.append(f"the loss had not settled after {MOST_STEPS} steps")
    metrics["expected_calibration_error"] = 100.0 * reliability.expected_calibration_error
    if bool(torch.isfinite(found.gather(1, targets[:, None])).all()):
        metrics[NATS] = negative_log_likelihood(found, targets)
    else:
        notes.append("no likelihood: the test images have classes that no training image has")
    if settings.shots and len(strengths) > 1:
        notes.append("few-shot classifiers have the strength that was chosen with all training images")
    for shots in settings.shots or []:
        metrics |= _measure_few(values, labels, asked, targets.numpy(), shots, chosen, settings)
    result = result_of_splits(
        *(bank, queries, model, metrics),
        ProtocolFacts(
            "logistic",
            {
                "strengths": strengths,
                "held_out_top1": {f"{strength:g}": value for strength, value in held_out.items()},
                "strength": chosen,
                "held_out": HELD_OUT,
                "features": "mean 0, divided by the root of their mean variance",
                "solver": f"L-BFGS of {'torch' if _is_cuda(device) else 'scikit-learn'}, tolerance {TOLERANCE:g}",
                "shots": list(settings.shots or []),
                "draws": settings.draws if settings.shots else 0,
            },
        ),
        *(device, started, notes),
        seed=settings.seed,
        versions=library_versions("scikit-learn"),
        standard_errors=errors,
    )
    return result, reliability


def _measure_accuracies(scores: torch.Tensor, targets: torch.Tensor, real: RealLabels | None) -> dict[str, float]:
    """Top-1, top-5 of more than five classes, and top-1 on ImageNet-ReaL, in percent."""
    ranks = target_ranks(scores, targets)
    metrics = {"top1": 100.0 * float((ranks < 1).double().mean())}
    if scores.shape[1] > 5:
        metrics["top5"] = 100.0 * float((ranks < 5).double().mean())
    if real is not None and real.rows is not None and real.count:
        metrics[f"top1{REAL}"] = 100.0 * int(hits_any_target(scores, real.rows).sum()) / real.count
    return metrics


def fit(
    values: Array, labels: npt.NDArray[np.int64], strengths: Sequence[float], device: str = "cpu"
) -> Iterator[Fitted]:
    """Fit one classifier a strength, from the strongest penalty to the weakest, each from the weights before.

    Minimises mean(−ln p) + |weight|² / (2 · strength). Of two classes the one row of differences is penalised.

    Args:
        values: Features. Shape: (images, dim).
        labels: Class indices of two classes or more. Shape: (images,).
        strengths: Inverse penalties, rising.
        device: On a CUDA device torch computes, else scikit-learn.
    """
    mean = values.mean(axis=0)
    scale = float(np.sqrt(((values - mean) ** 2).mean())) or 1.0
    standardised = (values - mean) / scale
    classes, places = np.unique(labels, return_inverse=True)
    solve = fit_by_torch(standardised, places, strengths, device) if _is_cuda(device) else None
    for weight, bias, settled in solve or _fit_by_scikit_learn(standardised, places, strengths):
        if len(classes) == 2:  # they keep one row
            weight, bias = np.vstack([-weight / 2, weight / 2]), np.concatenate([-bias / 2, bias / 2])
        yield Fitted(mean, scale, weight, bias, classes.astype(np.int64), settled)


def _is_cuda(device: str) -> bool:
    return torch.device(device).type == "cuda"


def _fit_by_scikit_learn(
    values: Array, labels: npt.NDArray[np.int64], strengths: Sequence[float]
) -> Iterator[tuple[Array, Array, bool]]:
    model: Any = LogisticRegression(tol=TOLERANCE, max_iter=MOST_STEPS, warm_start=True)
    for strength in strengths:
        model.C = strength / len(values)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the result says it
            model.fit(values, labels)
        yield model.coef_.copy(), model.intercept_.copy(), int(model.n_iter_.max()) < MOST_STEPS


def fit_by_torch(
    values: Array, labels: npt.NDArray[np.int64], strengths: Sequence[float], device: str
) -> Iterator[tuple[Array, Array, bool]]:
    """As scikit-learn fits, on any device that has float64: weight (rows, dim), bias (rows,), whether it settled.

    Args:
        values: Standardised features. Shape: (images, dim).
        labels: Every class from 0 on. Shape: (images,).
        strengths: Inverse penalties, rising.
        device: Where.
    """
    images, targets = torch.from_numpy(values).to(device), torch.from_numpy(labels).to(device)
    count, dim = images.shape
    classes = int(targets.max()) + 1
    rows, size = (1 if classes == 2 else classes), max(1, _LOGITS_TOGETHER // classes)
    weight, bias = (
        torch.zeros(*shape, dtype=torch.float64, device=device, requires_grad=True) for shape in ((rows, dim), (rows,))
    )
    for strength in strengths:
        optimizer = torch.optim.LBFGS(
            *([weight, bias],),
            max_iter=MOST_STEPS,
            max_eval=2 * MOST_STEPS,
            tolerance_grad=TOLERANCE,
            tolerance_change=0.0,
            history_size=10,
            line_search_fn="strong_wolfe",
        )

        def closure(strength: float = strength, optimizer: torch.optim.Optimizer = optimizer) -> torch.Tensor:
            optimizer.zero_grad()
            loss = weight.square().sum() / (2 * strength)
            loss.backward()
            total = loss.detach()
            for start in range(0, count, size):
                logits = images[start : start + size] @ weight.T + bias
                logits = torch.cat([-logits / 2, logits / 2], dim=1) if rows == 1 else logits
                part = F.cross_entropy(logits, targets[start : start + size], reduction="sum") / count
                part.backward()
                total = total + part.detach()
            return total

        optimizer.step(closure)  # type: ignore[arg-type]
        steps = optimizer.state[weight]["n_iter"]
        yield *(each.detach().cpu().numpy().copy() for each in (weight, bias)), steps < MOST_STEPS  # type: ignore[misc]


def _choose(
    values: Array, labels: npt.NDArray[np.int64], strengths: Sequence[float], settings: LogisticSettings
) -> dict[float, float]:
    """Top-1 on held-out training images by strength; nothing is measured where there is nothing to choose."""
    if len(strengths) == 1:
        return {}
    held = _draw_held_out(labels, settings.seed)
    paths = fit(values[~held], labels[~held], strengths, settings.device or "cpu")
    shown = tqdm(zip(strengths, paths, strict=True), "strengths", len(strengths), disable=not settings.progress)
    return {strength: fitted.accuracy(values[held], labels[held]) for strength, fitted in shown}


def _draw_held_out(labels: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.bool_]:
    """A share of each class; every class keeps an image that is learned from."""
    generator, held = np.random.default_rng(seed), np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        places = generator.permutation(np.flatnonzero(labels == label))
        held[places[: min(round(HELD_OUT * len(places)), len(places) - 1)]] = True
    if not held.any():
        held_class = np.flatnonzero(labels == np.bincount(labels).argmax())
        held[held_class[: len(held_class) // 2]] = True
    return held


def _check_labels(labels: npt.NDArray[np.int64], names: Sequence[str], settings: LogisticSettings, name: str) -> None:
    """Refuse training images of which nothing can be learned, or not what was asked for."""
    counts = np.bincount(labels, minlength=len(names))
    if (counts > 0).sum() < 2:
        raise ValueError(f"{name}: its training images are of one class; a classifier needs two.")
    if counts.max() < 2 and len(settings.strength or STRENGTHS) > 1:
        raise ValueError(
            f"{name}: no class has two training images, so none can be held out to choose by: give one --strength."
        )
    for each in settings.shots or []:
        lacking = [names[int(label)] for label in np.flatnonzero((counts > 0) & (counts < each))]
        if each < 1 or lacking:
            fault = (
                f"{len(lacking)} of the classes have fewer training images (first: {lacking[0]})"
                if lacking
                else "below 1"
            )
            raise ValueError(f"--shots {each}: {fault}; give a number that every class has.")


def _measure_few(
    values: Array,
    labels: npt.NDArray[np.int64],
    asked: Array,
    targets: npt.NDArray[np.int64],
    shots: int,
    strength: float,
    settings: LogisticSettings,
) -> dict[str, float]:
    """Mean top-1 over draws of so many images a class, and half of its 95 % interval."""
    found = []
    for draw in tqdm(range(settings.draws), f"{shots} images a class", disable=not settings.progress):
        generator = np.random.default_rng((settings.seed, shots, draw))
        places = np.concatenate(
            [generator.choice(np.flatnonzero(labels == label), shots, replace=False) for label in np.unique(labels)]
        )
        fitted, *_ = fit(values[places], labels[places], [strength], settings.device or "cpu")
        found.append(fitted.accuracy(asked, targets))
    name = f"top1_shots{shots}"
    if settings.draws == 1:
        return {name: found[0]}
    half = float(student.ppf(0.975, settings.draws - 1)) * statistics.stdev(found) / math.sqrt(settings.draws)
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
