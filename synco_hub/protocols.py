"""Every protocol by name: the one way in for Python, commands, cards and callbacks.

    synco_hub.evaluate("knn", model="synco-v2-vit-nano", dataset="fractals").metrics

The table is read without torch; what it names is imported when it is used.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from synco_hub.errors import FlagError, describe_batch, explain_out_of_memory, suggest
from synco_hub.output_paths import check_output_file, check_output_folder, check_result_file
from synco_hub.results import EvaluationResult
from synco_hub.settings import (
    AdversarialSettings,
    ClassificationSettings,
    DatasetChoice,
    DiscoverySettings,
    EfficiencySettings,
    KnnSettings,
    LogisticSettings,
    OutOfDistributionSettings,
    RetrievalSettings,
    RobustnessSettings,
    SegmentationSettings,
    VideoSegmentationSettings,
    check_choice,
)

_EVERY = tuple(field.name for field in fields(DatasetChoice))
# Draws the weights of a network that nobody trained.
RANDOM_SEED = 0
BACKBONE, CLASSIFIER, NOTHING = "backbone", "classifier", "nothing"


@dataclass(frozen=True)
class Evaluator:
    """A protocol that steps no optimizer.

    Attributes:
        function: ``module:function`` of `evaluate(model, data, settings, output) -> EvaluationResult`; the module has
            `format_table(result) -> str` too.
        settings: Dataclass of its settings.
        model: What it measures: a backbone, a classifier, or a backbone that may be left out.
        data: Fields of `DatasetChoice` that it reads.
        dataset: Its default data set.
        summary: First lines of its help.
        example: A command that works.
        output: Where commands write the result: a file, or a folder where the name has no suffix.
        anywhere: Whether `evaluate all` measures it on every data set that it is given.
    """

    function: str
    settings: type
    model: str
    summary: str
    example: str
    data: tuple[str, ...] = _EVERY
    dataset: str = DatasetChoice.dataset
    output: str = "results.json"
    anywhere: bool = False


EVALUATORS: dict[str, Evaluator] = {
    "knn": Evaluator(
        "synco_hub.evaluation.knn:evaluate",
        KnnSettings,
        BACKBONE,
        "Weighted k-nearest-neighbour accuracy of frozen features (paper 8.1; the protocol of DINO).",
        "synco-hub evaluate knn --model synco-v2-vit-nano --dataset fractals --output results.json",
        anywhere=True,
    ),
    "logistic": Evaluator(
        "synco_hub.evaluation.logistic:evaluate",
        LogisticSettings,
        BACKBONE,
        "Logistic regression on frozen features, in seconds: accuracy, calibration, few-shot.\n\n"
        "The penalty is chosen on held-out training images.",
        "synco-hub evaluate logistic --model synco-v2-vit-nano --dataset fractals --shots 1 5 --output logistic.json",
        output="logistic.json",
    ),
    "classification": Evaluator(
        "synco_hub.evaluation.classification:evaluate",
        ClassificationSettings,
        CLASSIFIER,
        "Top-1, top-5 and mean per-class accuracy (or mAP) of a trained classifier on centre crops.",
        "synco-hub evaluate classification --model runs/probe --dataset fractals --output classification.json",
        output="classification.json",
        anywhere=True,
    ),
    "robustness": Evaluator(
        "synco_hub.evaluation.robustness:evaluate",
        RobustnessSettings,
        CLASSIFIER,
        "Accuracy on ImageNet-V2, -C (mean and mCE), -A, -R (of 200 and of 1000 classes), -W and -Sketch (paper "
        "8.2).\n\nThe classifier must have been trained on clean ImageNet. Started again it goes on after the last "
        "finished cell.",
        "synco-hub evaluate robustness --model runs/probe --on-the-fly --dataset fractals --num-images 200",
        output="robustness.json",
    ),
    "ood": Evaluator(
        "synco_hub.evaluation.out_of_distribution:evaluate",
        OutOfDistributionSettings,
        CLASSIFIER,
        "FPR95, AUROC, AUPR of maximum softmax, energy and nearest-neighbour scores, in both conventions (paper "
        "8.2).\n\nStarted again after an interruption it goes on where it was; images that have changed since are "
        "measured anew.",
        "synco-hub evaluate ood --model runs/probe --in-dataset fractals --out-dataset ./photographs",
        data=("data_dir", "split_seed"),
        output="ood.json",
    ),
    "adversarial": Evaluator(
        "synco_hub.evaluation.adversarial:evaluate",
        AdversarialSettings,
        CLASSIFIER,
        "Top-1 accuracy under FGSM, PGD, C&W, Square, AutoAttack, TIFGSM and OnePixel (paper 8.3, torchattacks).\n\n"
        "Started again after an interruption it goes on where it was. Exit code 3: an attack left every input as it "
        "was.",
        "synco-hub evaluate adversarial --model runs/probe --dataset fractals --num-images 100",
        output="adversarial.json",
    ),
    "retrieval": Evaluator(
        "synco_hub.evaluation.retrieval:evaluate",
        RetrievalSettings,
        BACKBONE,
        "Mean average precision of ranking a database by similarity to each query (easy, medium, hard).\n\n"
        "--dataset is roxford5k or rparis6k, --data-dir the folder that holds it: gnd_<name>.pkl and jpg/.",
        "synco-hub evaluate retrieval --model synco-v2-deit-s --data-dir data --dataset roxford5k --save-features f",
        data=("dataset", "data_dir"),
        dataset="roxford5k",
        output="retrieval.json",
    ),
    "video-segmentation": Evaluator(
        "synco_hub.evaluation.video_segmentation:evaluate",
        VideoSegmentationSettings,
        BACKBONE,
        "J, F and J&F of following the objects of each video's first frame by frozen patch features.\n\n"
        "--data-dir is DAVIS: JPEGImages/480p, Annotations/480p, ImageSets/2017. Writes masks/<video>/*.png with "
        "DAVIS's palette and video-segmentation.json, renewed after each video; a killed run continues there. A video "
        "that cannot be measured is named at the end, with a non-zero exit code; the others' result is kept, marked "
        "partial.",
        "synco-hub evaluate video-segmentation --model synco-v2-deit-s --data-dir DAVIS --output-dir runs/davis",
        data=("data_dir",),
        dataset="davis2017",
        output="video-segmentation",
    ),
    "discovery": Evaluator(
        "synco_hub.evaluation.discovery:evaluate",
        DiscoverySettings,
        BACKBONE,
        "CorLoc: the share of images whose one found box lies well (IoU >= 0.5) on any annotated one.\n\n"
        "The model is a ViT; --data-dir is VOC2007, or the folder that holds it or VOCdevkit.",
        "synco-hub evaluate discovery --model synco-v2-deit-s --method tokencut --data-dir VOCdevkit/VOC2007",
        data=("data_dir",),
        dataset="voc2007",
        output="discovery.json",
    ),
    "segmentation": Evaluator(
        "synco_hub.evaluation.segmentation:evaluate",
        SegmentationSettings,
        BACKBONE,
        "Mean IoU of a linear layer, or of retrieved labels, on frozen patch features.\n\n"
        "--dataset is voc2012 or ade20k (files in --data-dir, else from the Hub), a table with a column of masks, or "
        "a folder: images/train, images/test beside masks/train, masks/test. --figure draws images, masks and "
        "predictions, and beside them what other models left in --save-masks.",
        "synco-hub evaluate segmentation --model synco-v2-deit-s --dataset ade20k --data-dir . --side 512 --probe knn",
        data=(
            *("dataset", "data_dir", "dataset_id", "config", "revision", "image_column", "label_column"),
            "split_seed",
        ),
        dataset="voc2012",
        output="segmentation.json",
    ),
    "efficiency": Evaluator(
        "synco_hub.evaluation.efficiency:evaluate",
        EfficiencySettings,
        NOTHING,
        "Parameters, operations, images a second, memory, time of a step, hours of a run (paper Tables 10 and 15).",
        "synco-hub evaluate efficiency --backbone swin-t --methods moby,synco-v2 --batch-size 128 --output e.json",
        data=(),
        output="efficiency.json",
    ),
}
TRAINED = {
    "linear-probe": "synco-hub linear-probe --model MODEL --dataset DATA --output-dir FOLDER",
    "fine-tune": "synco-hub fine-tune --model MODEL --dataset DATA --output-dir FOLDER",
}
"""Protocols that step an optimizer, and the command that does."""


def evaluate(
    protocol: str,
    model: str | os.PathLike[str] | None = None,
    dataset: str | os.PathLike[str] | DatasetChoice | None = None,
    output: str | os.PathLike[str] | None = None,
    model_revision: str | None = None,
    random_network: bool = False,
    leak_check: bool = True,
    **settings: Any,
) -> EvaluationResult:
    """Measure a frozen model by a protocol of the paper.

    Args:
        protocol: A key of `EVALUATORS`, as `synco-hub evaluate --help` lists them.
        model: Short name, checkpoint directory, Hub id, or ``timm:<name>``; where a classifier is measured, the
            output folder of linear probing or fine-tuning, or a classifier on the Hub.
        dataset: See `DatasetChoice.dataset`, or a whole choice; None for the protocol's own.
        output: Where the result is written too, and what an interrupted measurement continues from; a folder for
            video-segmentation. None writes nothing.
        model_revision: Commit, branch or tag of a model on the Hub.
        random_network: Measure the model's architecture with weights that are drawn anew: what the data gives for
            nothing. Backbones only.
        leak_check: Look for test images among those that the model was pretrained on, where its run has kept their
            fingerprints; what is found is logged and stands in the result's notes.
        settings: Fields of the protocol's settings (`synco_hub.settings`) and of `DatasetChoice`.

    Raises:
        ValueError: If the protocol or a setting is unknown, naming the nearest, or something does not fit.
        OSError: If model or files are not there.
    """
    row = find_evaluator(protocol)
    if not isinstance(model, (str, os.PathLike, NoneType)):
        raise ValueError(
            f"model is a {type(model).__name__}: give a name, a Hub id or a directory; save a network of Python by "
            "its save_pretrained, beside its image processor, and give the directory."
        )
    own = {field.name for field in fields(row.settings)}
    if isinstance(dataset, DatasetChoice):
        given = {field.name: getattr(dataset, field.name) for field in fields(DatasetChoice)}
        chosen_name = given.pop("dataset")
        unusual = {name: value for name, value in given.items() if value != getattr(DatasetChoice, name)}
        dataset, settings = chosen_name, {**unusual, **settings}
    if dataset is not None:
        name = "in_dataset" if "in_dataset" in own else "dataset"
        settings = {name: dataset, **settings}
    known = own | set(row.data)
    for name in settings:
        if name not in known:
            raise ValueError(
                f"{protocol} has no setting {name!r}: use {', '.join(sorted(known))}.{suggest(name, known)}"
            )
    kinds = {**get_type_hints(DatasetChoice), **get_type_hints(row.settings)}
    values = {name: _check_kind(name, value, kinds[name]) for name, value in settings.items()}
    data = {"dataset": row.dataset, **{name: value for name, value in values.items() if name not in own}}
    chosen = row.settings(**{name: value for name, value in values.items() if name in own})
    place = None if output is None else Path(output)
    measured = None if model is None else os.fspath(model)
    options = {"random_network": random_network, "leak_check": leak_check}
    return measure(protocol, measured, DatasetChoice(**data), chosen, place, model_revision, **options)


def measure(
    protocol: str,
    model: str | None,
    data: DatasetChoice,
    settings: Any,
    output: Path | None = None,
    model_revision: str | None = None,
    random_network: bool = False,
    leak_check: bool = True,
) -> EvaluationResult:
    """As :func:`evaluate`, for settings that are made already."""
    row = find_evaluator(protocol)
    _check_places(row, settings, output)
    # A device that is not there is told before a model is fetched.
    settings = replace(settings, device=resolve("synco_hub.features:choose_device")(settings.device))
    resolve("synco_hub.features:check_precision")(getattr(settings, "precision", "fp32"), settings.device)
    loaded = _loaded(row, model, settings, model_revision, random_network)
    if loaded is not None and leak_check and not random_network:
        places = resolve("synco_hub.hub.model_names:find_pretraining_folders")(model)
        loaded = replace(loaded, pretrained_on=tuple(places))
    with explain_out_of_memory(lambda: _describe_load(protocol, loaded, settings)):
        result: EvaluationResult = resolve(row.function)(loaded, data, settings, output)
    if loaded is None or not loaded.leaks:
        return result
    result = replace(result, notes=(*result.notes, *(line for line in loaded.leaks if line not in result.notes)))
    if output is not None:
        result.save(output if Path(row.output).suffix else output / f"{protocol}.json")
    return result


def _describe_load(protocol: str, loaded: Any, settings: Any) -> tuple[str, str]:
    """What did not fit the device's memory, and what would."""
    batch, side = getattr(settings, "batch_size", 1), getattr(settings, "max_side", None)
    size = side or getattr(getattr(getattr(loaded, "network", None), "config", None), "image_size", None)
    network = getattr(loaded, "name", None) or getattr(settings, "backbone", None) or protocol
    remedies = [f"--batch-size {batch // 2}"] if batch > 1 else []
    remedies += [f"--max-side {side // 2}"] if side else []
    remedies += ["--precision bf16"] if getattr(settings, "precision", None) == "fp32" else []
    return describe_batch(batch, size, network), f"give {', '.join(remedies)}{' or ' if remedies else ''}--device cpu"


def _check_kind(name: str, value: Any, kind: Any) -> Any:
    """The value as its flag would be read, where it is of that kind."""
    if isinstance(value, os.PathLike) or (name == "device" and value is not None):
        value = str(value)
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    several = next((each for each in kinds if get_origin(each) is list), None)
    if several is not None and value is not None:
        (each,) = get_args(several)
        values = value if isinstance(value, (list, tuple, range)) else [value]
        return [_check_kind(name, one, each) for one in values]
    numbers = {int: Integral, float: Real}
    fits = tuple(numbers.get(each, each) for each in kinds if get_origin(each) is not Literal)
    if len(fits) == len(kinds) and (not isinstance(value, fits) or (isinstance(value, bool) and bool not in kinds)):
        wanted = " or ".join("None" if each is NoneType else each.__name__ for each in kinds)
        raise ValueError(f"{name}={value!r} is of type {type(value).__name__}: give {wanted}.")
    if get_origin(kind) is Literal:
        check_choice(name, value, kind)
    # One of numpy's cannot be written as JSON.
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else value


def find_evaluator(protocol: str) -> Evaluator:
    """The row of a protocol."""
    if protocol in TRAINED:
        raise ValueError(f"{protocol} trains a classifier, which is a run of its own: {TRAINED[protocol]}")
    if protocol not in EVALUATORS:
        known = [*EVALUATORS, *TRAINED]
        near = suggest(str(protocol), known)
        raise ValueError(f"protocol {protocol!r} is unknown: use one of {', '.join(known)}.{near}")
    return EVALUATORS[protocol]


def resolve(name: str) -> Callable[..., Any]:
    """What ``module:function`` names."""
    module, _, function = name.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found


def _loaded(row: Evaluator, model: str | None, settings: Any, revision: str | None, random_network: bool) -> Any:
    """What is measured, as `evaluation.measurement.EvaluatedModel`; None where nothing is needed."""
    kept = getattr(settings, "features", None) is not None
    if (kept or model is None) and (revision is not None or random_network):
        flag = "--random-network" if random_network else f"--model-revision {revision}"
        raise FlagError(f"{flag} is about the model of --model: {'leave out --features' if kept else 'give it'}.")
    if kept:
        return None
    if model is None:
        if row.model == NOTHING:
            return None
        instead = ", or --features of an earlier measurement" if hasattr(settings, "features") else ""
        raise FlagError(f"--model is missing: give the model to measure{instead}.")
    model = resolve("synco_hub.hub.run_checkpoints:find_newest_state")(model)
    evaluated = resolve("synco_hub.evaluation.measurement:EvaluatedModel")
    found = resolve("synco_hub.hub.model_names:find_revision")(model, revision, not random_network)
    at = {} if found.commit is None else {"revision": found.commit}
    if row.model == CLASSIFIER:
        classifier, processor, class_names = resolve("synco_hub.hub.loading:load_classifier")(model, **at)
        return evaluated(classifier, processor, model, class_names, found.words)
    if random_network:
        at["random_seed"] = RANDOM_SEED
    network, processor = resolve("synco_hub.hub.loading:load_model")(model, **at)
    if random_network:
        return evaluated(network, processor, f"{model}, random weights", (), f"none: weights of seed {RANDOM_SEED}")
    return evaluated(network, processor, model, (), found.words)


def _check_places(row: Evaluator, settings: Any, output: Path | None) -> None:
    """A path that cannot be written must not cost the minutes or hours before it."""
    if output is not None and Path(row.output).suffix:
        check_result_file(output)
    elif output is not None:
        check_output_folder(output, "--output-dir")
    for field in fields(settings):
        place, kind = getattr(settings, field.name), field.metadata.get("writes")
        flag = f"--{field.name.replace('_', '-')}"
        if place is not None and kind == "folder":
            check_output_folder(Path(place), flag)
        elif place is not None and kind is not None:
            check_output_file(Path(place), flag, kind)
