"""The card of a checkpoint directory: what it is, how it was made, which numbers were measured and how."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from safetensors import SafetensorError

from synco_hub.atomic_write import atomic_write
from synco_hub.data.fractals.dataset import FractalDataset, FractalParameters
from synco_hub.data.loading import FRACTALS
from synco_hub.hub.card.evaluation_entries import write_evaluation_files
from synco_hub.hub.card.facts import FACTS_FILE, CardFacts, read_facts, read_zoo_facts, write_facts
from synco_hub.hub.card.rendering import CLASSIFIER, render_card
from synco_hub.results import EvaluationResult
from synco_hub.weights_identity import hash_saved_weights
from synco_hub.zoo import ZOO, refuse_embedded

CARD_FILE = "README.md"
SETTINGS_FILE = "pretraining_settings.json"
CLASSIFICATION_FILE = "classification_settings.json"
CONVERSION_REPORT = "conversion_report.json"
AVERAGE_FILE = "average.json"
RESULTS_FOLDER = "results"
# It stands inside quotes in the card's code.
_LOADABLE = re.compile(r'[^\x00-\x1f\x7f"\\]{1,255}')
_LICENCE_ID = re.compile(r"[a-z0-9][a-z0-9.-]*")
_AVERAGE_KEYS = ("start", "end", "metric", "rule", "recommended")
_CONVERSION_KEYS = ("source", "layout", "branch", "heads", "tensors_in_file", "clean")


def write_card(
    directory: Path,
    name: str,
    config: Mapping[str, Any],
    pretraining: Mapping[str, Any],
    results: Sequence[EvaluationResult] = (),
    licence: str | None = None,
    facts: CardFacts | None = None,
) -> None:
    """Write `README.md` and `.eval_results/` of a checkpoint directory from facts alone.

    What a run has recorded about itself goes before what people wrote.
    """
    if facts is None:
        facts = read_facts(directory / FACTS_FILE) if (directory / FACTS_FILE).is_file() else CardFacts()
    if licence is not None:
        facts = _add_licence(facts, licence)
    card = render_card(name, config, pretraining, results, facts)
    write_evaluation_files(directory, results)
    with atomic_write(directory / CARD_FILE) as temporary:
        card.save(temporary)


def render_expected_card(directory: Path) -> ModelCard:
    """The card that `refresh_card` would write now."""
    config = _config(directory)
    facts = _choose_facts(directory, None, config)
    name = facts.loaded_by or directory.resolve().name
    return render_card(name, config, _made_by(directory), find_results_in(directory), facts)


def refresh_card(
    directory: Path, name: str | None = None, facts: str | None = None, licence: str | None = None
) -> Sequence[EvaluationResult]:
    """Write the card of a checkpoint directory anew from everything that lies in it.

    The facts that are chosen here are kept beside the weights, so that later calls need not repeat them.
    """
    if not (directory / "config.json").is_file():
        raise ValueError(f"{directory} is no checkpoint: it has no config.json; give the directory with the weights.")
    refuse_embedded(directory, "`synco-hub card {copy}`")
    config = _config(directory)
    kept = _choose_facts(directory, facts, config)
    if licence is not None:
        kept = _add_licence(kept, licence)
    if name is not None:
        kept = dataclasses.replace(kept, loaded_by=name)
    if kept.loaded_by is not None and not _LOADABLE.fullmatch(kept.loaded_by):
        raise ValueError(
            f"{kept.loaded_by!r:.200} cannot be what the model is loaded by: give organisation/name, or a name "
            "without quotation marks and line breaks."
        )
    results = find_results_in(directory)
    if (facts, licence, name) != (None, None, None):
        write_facts(directory / FACTS_FILE, kept)
    write_card(directory, kept.loaded_by or directory.resolve().name, config, _made_by(directory), results, facts=kept)
    return results


def _config(directory: Path) -> dict[str, Any]:
    """The configuration of a model of this package."""
    file = directory / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{file} is no configuration ({' '.join(str(error).split())}): save the model anew."
        ) from None
    if not isinstance(config, dict) or not isinstance(config.get("pretraining") or {}, dict):
        raise ValueError(f"{file} is no configuration: save the model anew.")
    if "hidden_size" not in config or "backbone" not in config:
        raise ValueError(f"{directory} holds a model of type {config.get('model_type')!r}, not one of this package.")
    return config


def find_results_in(directory: Path) -> list[EvaluationResult]:
    """The measurements of the weights in a directory: result files in it and below its `results`."""
    return _sort_results(directory)[0]


def list_foreign_results(directory: Path) -> list[str]:
    """A line for each result file in a directory that is not known to be about the weights there."""
    return _sort_results(directory)[1]


def list_foreign_conversion(directory: Path) -> list[str]:
    """A line where a directory's account of a conversion is of other weights; earlier versions did not note which."""
    converted = _read_mapping(directory / CONVERSION_REPORT).get("weights")
    if converted is None or not any(directory.glob("*.safetensors")):
        return []
    try:
        whole, backbone = hash_saved_weights(directory)
    except (SafetensorError, ValueError) as error:
        return [f"{CONVERSION_REPORT} cannot be compared with the weights: {' '.join(str(error).split())}"]
    if converted in (whole, backbone):  # a head may have been trained on what was converted
        return []
    return [
        f"{CONVERSION_REPORT} is about other weights than these ({converted}, here {whole}): convert again, or move "
        "it away if these are not what was converted"
    ]


def _sort_results(directory: Path) -> tuple[list[EvaluationResult], list[str]]:
    found = {}
    for file in [*sorted(directory.glob("*.json")), *sorted((directory / RESULTS_FOLDER).rglob("*.json"))]:
        try:
            found[file] = EvaluationResult.load(file)
        except ValueError:
            continue  # settings, configurations and the like lie beside results
    if not found or not any(directory.glob("*.safetensors")):
        return list(found.values()), []
    own: list[EvaluationResult] = []
    foreign: list[str] = []
    try:
        whole, backbone = hash_saved_weights(directory)
    except (SafetensorError, ValueError) as error:
        why = " ".join(str(error).split())
        return [], [f"{file.relative_to(directory)} cannot be compared with the weights: {why}" for file in found]
    for file, result in found.items():
        if _is_about(result, whole, backbone):
            own.append(result)
            continue
        stated = result.model.weights
        what = "does not say which weights it is about" if stated is None else "is about other weights than these"
        foreign.append(
            f"{file.relative_to(directory)} {what} ({stated or 'an older version wrote it'}, here {whole}): measure "
            f"again on {result.dataset.name} with `synco-hub evaluate {_find_command(result)} --model {directory} "
            f"{_spell_data(result)}--output {file}`, or move it away"
        )
    return own, foreign


def _is_about(result: EvaluationResult, whole: str, backbone: str) -> bool:
    """Whether these weights were measured, or, where they have no head, a head that was trained on them."""
    if result.model.weights is None:
        return False
    trained_on = result.protocol.parameters.get("backbone_weights")
    return result.model.weights in (whole, backbone) or (whole == backbone == trained_on)


def _find_command(result: EvaluationResult) -> str:
    """What measures a directory by a result's protocol; a trained classifier's number without training it again."""
    name = result.protocol.name
    return "classification" if name.startswith(("linear_probe", "fine_tune")) else name.split("_")[0]


def _spell_data(result: EvaluationResult) -> str:
    """The flags of the data set, where a protocol takes one alone."""
    name, rule = result.protocol.name, result.dataset.description
    taken = ("linear_probe", "fine_tune", "knn", "logistic", "segmentation")
    if not name.startswith((*taken, "classification", "adversarial", "robustness_on")):
        return ""
    seed = re.search(r"split \(seed (\d+)\)", rule)
    flags = ["--on-the-fly"] if name.startswith("robustness_on") else []
    flags += ["--probe", result.protocol.parameters["probe"]] if "probe" in result.protocol.parameters else []
    flags += ["--dataset", shlex.quote(find_dataset_again(result))]
    flags += ["--split-seed", seed[1]] if seed is not None and seed[1] != "0" else []
    return " ".join(flags) + " "


def find_dataset_again(result: EvaluationResult) -> str:
    """By what name or path the data set of a result is opened here: of a folder a result has the bare name."""
    about = result.dataset
    if about.name == FRACTALS:
        return _find_fractals(result)
    place = Path(about.description.partition(";")[0])
    folders = (folder for folder in (place, *place.parents) if folder.name == about.name and folder.is_dir())
    return str(next(folders, about.name))


def _find_fractals(result: EvaluationResult) -> str:
    """As the result says; those of earlier versions do not, and what gives the same images is tried."""
    stated = re.search(rf"{FRACTALS}:[a-z_0-9=,]+", result.dataset.description)
    if stated is not None:
        return stated[0]
    parameters = FractalParameters()
    counts = {"test": result.dataset, "train": result.training_dataset}
    for split, source in counts.items():
        if source is not None and source.num_classes:
            size = re.search(r"(\d+) pixels", source.description)
            parameters = replace(
                parameters,
                num_classes=source.num_classes,
                image_size=parameters.image_size if size is None else int(size[1]),
                **{f"{split}_images_per_class": max(source.count // source.num_classes, 1)},
            )
    known = FractalDataset("test", parameters).description.fingerprint == result.dataset.fingerprint
    return parameters.spell() if known else FRACTALS


def _choose_facts(directory: Path, facts: str | None, config: Mapping[str, Any]) -> CardFacts:
    if facts is None:
        return read_facts(directory / FACTS_FILE) if (directory / FACTS_FILE).is_file() else CardFacts()
    if facts.endswith((".yaml", ".yml")):
        return read_facts(Path(facts))
    chosen = read_zoo_facts(facts)
    method = (config.get("pretraining") or {}).get("method", ZOO[facts].method)
    if (config["backbone"], method) != (ZOO[facts].backbone, ZOO[facts].method):
        raise ValueError(
            f"the facts of {facts!r} are not about {directory}, which holds {method} on {config['backbone']!r}: "
            "choose others with --facts, or none."
        )
    return chosen


def _add_licence(facts: CardFacts, licence: str) -> CardFacts:
    """The facts under another licence; what was said about the old one goes."""
    if not _LICENCE_ID.fullmatch(licence):
        raise ValueError(f"licence {licence!r} is no identifier of the Hub: use one such as apache-2.0 or cc-by-4.0.")
    if licence == "other" and not facts.licence_name:
        raise ValueError(
            "licence 'other' needs a name: write licence, licence_name and licence_note into a facts file and give "
            "it by --facts."
        )
    if licence == facts.licence:
        return facts
    return dataclasses.replace(facts, licence=licence, licence_name=None, licence_link=None, licence_note=None)


def _made_by(directory: Path) -> dict[str, Any]:
    """How the weights came to be, by the files that trainers and the converter left; empty if none did."""
    made: dict[str, Any] = {}
    kinds = ((SETTINGS_FILE, None), (CONVERSION_REPORT, _CONVERSION_KEYS), (AVERAGE_FILE, _AVERAGE_KEYS))
    for file, kept in kinds:
        if not made and (file != CONVERSION_REPORT or not list_foreign_conversion(directory)):
            made = {key: value for key, value in _read_mapping(directory / file).items() if not kept or key in kept}
    # What the classifier was trained on and how; the backbone's own training is said by the model that it names.
    classifier = _read_mapping(directory / CLASSIFICATION_FILE)
    return {**made, CLASSIFIER: classifier} if classifier else made


def _read_mapping(file: Path) -> dict[str, Any]:
    values = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return values if isinstance(values, dict) else {}
