"""Weights on the line between two checkpoints: what two domains have there, and which point to take.

What a network forgets while it goes on with other images mostly comes back between its old and its new weights.

Source: Wortsman et al. 2022 (WiSE-FT); the rule for the point is ours.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tqdm import tqdm

from synco_hub.atomic_write import atomic_write_directory, refuse_filled, usual_modes
from synco_hub.data import EvaluationDataset, EvaluationTransform, load_dataset
from synco_hub.data.class_labels import number_alike
from synco_hub.data.evaluation_transform import tell_colours
from synco_hub.data.image_folder import draw_stratified_test_mask
from synco_hub.evaluation.knn import evaluate_knn_features
from synco_hub.evaluation.measurement import MeasuredSplit, find_standard_errors, measure_split, model_source
from synco_hub.features import Features
from synco_hub.hub.card.model_card import AVERAGE_FILE as AVERAGE_FILE
from synco_hub.hub.card.model_card import SETTINGS_FILE, refresh_card
from synco_hub.hub.conversion.weights import describe_misfit
from synco_hub.hub.start import Start, read_start
from synco_hub.models import SynCoModel
from synco_hub.results import ModelSource
from synco_hub.settings import DatasetChoice, KnnSettings

logger = logging.getLogger(__name__)

FIGURE_FILE = "average.png"
POINTS = 11
# Points of k-NN accuracy on the domain to keep that may be lost.
TOLERANCE = 1.0
HELD_OUT = 0.2
DRAWS = 5
RULE = (
    f"Of {POINTS} points from the start (0) to the end (1), those before the first at which k-NN top-1 on the domain "
    f"to keep is more than {TOLERANCE:g} point below the start's; of these the one highest on the new domain, "
    f"the nearest to the start among equals. Both are means of {DRAWS} draws of {HELD_OUT:.0%} of each class of the "
    "training images, held out from the bank; test images choose nothing."
)
# What must agree beside the shapes, which do not tell it.
_UNSEEN = ("num_heads", "patch_size", "layer_norm_eps")
NEW, KEPT = "new", "kept"


@dataclass(frozen=True)
class Domain:
    """Images by which the points are compared.

    Attributes:
        choice: Which data set.
        train: Its training images, of which some are held out.
        test: Its test images.
    """

    choice: DatasetChoice
    train: EvaluationDataset
    test: EvaluationDataset


def average(
    start_name: str,
    end_name: str,
    output: Path,
    choices: Mapping[str, DatasetChoice],
    num_images: int | None = None,
    settings: KnnSettings | None = None,
) -> dict[str, Any]:
    """Measure the line between two checkpoints, and write the recommended point, its figure and its card.

    Args:
        start_name: The network before, as `read_start` takes it.
        end_name: The one after; image size and preprocessing are its own.
        output: A new folder.
        choices: The domains, `new` and `kept`.
        num_images: Images of each split at most.
        settings: How features are computed.

    Returns:
        What `average.json` says.

    Raises:
        ValueError: If the two are not of one shape, or a domain has no classes.
    """
    refuse_filled(output)
    settings = settings or KnnSettings(num_workers=0, progress=False)
    end = read_start(end_name)
    config = end.model.config
    start = read_start(start_name, image_size=config.image_size, window_size=config.window_size)
    _refuse_other_shape(start_name, start, end_name, end)
    notes = _find_notes(start, end)
    domains = {name: open_domain(choice, end.processor, num_images) for name, choice in choices.items()}
    shown = tqdm(range(POINTS), desc="points of the line", disable=not settings.progress)
    quiet = replace(settings, progress=False)
    points = [_measure_point(start, end, index / (POINTS - 1), domains, quiet) for index in shown]
    recommended = choose_point(points)
    report = {
        "schema_version": 1,
        "start": {name: start.facts[name] for name in ("base_model", "revision", "licence", "weights")},
        "end": {name: end.facts[name] for name in ("base_model", "revision", "licence", "weights")},
        "metric": "k-NN top-1 in percent, k = 10",
        "rule": RULE,
        "recommended": recommended,
        "notes": notes,
        "domains": {
            name: [side.images.description.to_dict() for side in (domain.train, domain.test)]
            for name, domain in domains.items()
        },
        "points": points,
    }
    with atomic_write_directory(output) as directory:
        with usual_modes(directory):
            mix(start, end, recommended["share"]).model.save_pretrained(directory)
            end.processor.save_pretrained(directory)
        (directory / AVERAGE_FILE).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        draw_average(points, recommended, choices).savefig(directory / FIGURE_FILE, dpi=110)
        refresh_card(directory, output.absolute().name)
    return report


def _refuse_other_shape(start_name: str, start: Start, end_name: str, end: Start) -> None:
    shapes = [{key: tuple(value.shape) for key, value in each.model.state_dict().items()} for each in (start, end)]
    fault = describe_misfit(shapes[1], shapes[0], 3)
    configs = (start.model.config, end.model.config)
    for name in _UNSEEN:
        values = [getattr(config, name) for config in configs]
        if not fault and values[0] != values[1]:
            fault = f"{name} {values[0]} and {values[1]}"
    if fault:
        raise ValueError(
            f"{start_name} and {end_name} are not two states of one network ({fault}): give a checkpoint and what was "
            "trained from it."
        )


def _find_notes(start: Start, end: Start) -> list[str]:
    """What speaks against a line between the two."""
    colours = [tell_colours(each.processor) for each in (start, end)]
    notes = []
    if colours[0] != colours[1]:
        notes.append("The two were made for images that are normalised otherwise; both are measured as the end's.")
    if start.facts["weights"] == end.facts["weights"]:
        notes.append("The two have the same weights.")
    return notes


def mix(start: Start, end: Start, share: float) -> Start:
    """The network at a share of the way from start to end; at the ends the very weights."""
    states = [each.model.state_dict() for each in (start, end)]
    mixed = {
        key: value if not value.is_floating_point() else torch.lerp(value, states[1][key], share)
        for key, value in states[0].items()
    }
    config: Any = end.model.config
    model: Any = SynCoModel(config)
    model.load_state_dict(states[1] if share == 1 else mixed)
    return Start(model.eval(), end.processor, end.facts)


def open_domain(choice: DatasetChoice, processor: Any, num_images: int | None) -> Domain:
    """Both splits of a domain; every image needs a class."""
    transform = EvaluationTransform.from_image_processor(processor)
    train, test = (
        load_dataset(choice, split, image_size=transform.image_size, max_images=num_images)
        for split in ("train", "test")
    )
    for side in (train, test):
        side.require_labels("synco-hub average")
    number_alike(train, test)
    return Domain(choice, EvaluationDataset(train, transform), EvaluationDataset(test, transform))


def _measure_point(
    start: Start, end: Start, share: float, domains: Mapping[str, Domain], settings: KnnSettings
) -> dict[str, Any]:
    """k-NN of one point, on held-out training images and on test images of each domain."""
    point: dict[str, Any] = {"share": round(share, 3), "held_out": {}, "test": {}, "test_standard_error": {}}
    with torch.random.fork_rng(devices=[]):
        model = mix(start, end, share).model
    source = model_source(model, "a point between two checkpoints")
    for name, domain in domains.items():
        train, test = (measure_split(model, side, settings) for side in (domain.train, domain.test))
        seeds = range(domain.choice.split_seed, domain.choice.split_seed + DRAWS)
        held_out = [_vote(source, *split_features(train, seed), settings)[0] for seed in seeds]
        point["held_out"][name] = sum(held_out) / DRAWS
        point["test"][name], point["test_standard_error"][name] = _vote(source, train, test, settings)
    logger.info("%s", point)
    return point


def _vote(
    source: ModelSource, bank: MeasuredSplit, queries: MeasuredSplit, settings: KnnSettings
) -> tuple[float, float | None]:
    """k-NN top-1 and its standard error."""
    neighbours = KnnSettings(k=[min(10, len(bank.features.values))], device=settings.device, progress=False)
    result = evaluate_knn_features(bank, queries, source, neighbours)
    metric, value = next((key, each) for key, each in result.metrics.items() if key.startswith("top1"))
    return value, find_standard_errors({metric: value}, len(queries.features.values)).get(metric)


def split_features(train: MeasuredSplit, seed: int) -> tuple[MeasuredSplit, MeasuredSplit]:
    """A bank and held-out queries of the features of training images, a share of each class."""
    features = train.features
    names = [str(int(index)) for index in features.indices]
    held = torch.from_numpy(draw_stratified_test_mask(names, features.labels.tolist(), seed, HELD_OUT))
    if not held.any():
        raise ValueError(
            f"{train.source.name}: no class has two training images, so none can be held out to choose a point by."
        )
    bank, queries = (
        MeasuredSplit(
            Features(features.values[mask], features.labels[mask], features.indices[mask], features.skipped[:0]),
            train.source,
            train.class_names,
            (),
            train.preprocessing,
        )
        for mask in (~held, held)
    )
    return bank, queries


def choose_point(points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The point of the rule, by held-out images alone."""
    least = points[0]["held_out"][KEPT] - TOLERANCE
    allowed = takewhile(lambda point: point["held_out"][KEPT] >= least - 1e-9, points)
    return dict(max(allowed, key=lambda point: (point["held_out"][NEW], -point["share"])))


def draw_average(
    points: Sequence[Mapping[str, Any]], recommended: Mapping[str, Any], choices: Mapping[str, DatasetChoice]
) -> Figure:
    """Both domains along the line; the recommended point is marked."""
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    shares = [point["share"] for point in points]
    words = {NEW: "new domain", KEPT: "domain to keep"}
    for name, choice in choices.items():
        label = f"{words[name]}: {Path(choice.dataset).name}"
        values = [point["test"][name] for point in points]
        drawn = axis.plot(shares, values, marker=".", label=f"{label}, test")[0]
        held = [point["held_out"][name] for point in points]
        axis.plot(shares, held, linestyle="--", linewidth=1, color=drawn.get_color(), label=f"{label}, held out")
    axis.axvline(recommended["share"], color="grey", linewidth=1, label="recommended")
    axis.set_xlabel("share of the way from start to end")
    axis.set_ylabel("k-NN top-1 (%), k = 10")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)
    return figure


def format_average(report: Mapping[str, Any]) -> str:
    """The eleven points, and which one was taken."""
    lines = ["share   new, held out   kept, held out   new, test   kept, test"]
    for point in report["points"]:
        held, test = point["held_out"], point["test"]
        mark = "  <- recommended" if point["share"] == report["recommended"]["share"] else ""
        numbers = f"{held[NEW]:13.1f}   {held[KEPT]:14.1f}   {test[NEW]:9.1f}   {test[KEPT]:10.1f}"
        lines.append(f"{point['share']:5.1f}   {numbers}{mark}")
    ends = {
        0.0: "the start as it was: no part of what was trained was better by the rule below",
        1.0: "the end as it was",
    }
    share = report["recommended"]["share"]
    taken = [f"recommended is {ends[share]}"] if share in ends else []
    return "\n".join([*lines, *taken, *report["notes"], report["rule"]])


def recall_domains(end: str) -> dict[str, DatasetChoice]:
    """The domains of the run that the end is of, as its settings record them; empty where they do not."""
    for directory in (Path(end), Path(end).parent):
        file = directory / SETTINGS_FILE
        if file.is_file():
            recorded = json.loads(file.read_text()).get("domains") or {}
            return {name: DatasetChoice(**values) for name, values in recorded.items()}
    return {}
