"""The text of a card, made of facts, measurements and the paper's tables alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from synco_hub.hub.card.evaluation_entries import build_model_index, select_metrics
from synco_hub.hub.card.facts import CardFacts, find_package_file
from synco_hub.hub.model_names import say_revision
from synco_hub.paper_tables import read_paper_table
from synco_hub.results import EvaluationResult, explain_standard_errors
from synco_hub.version import __version__

_NO_LICENCE = "No licence has been chosen yet, so nobody may use these weights: `synco-hub card DIR --licence ID`."
_LIMITS = (
    "The features are learned from images alone and carry the biases of those images.",
    "Meant for frozen-feature protocols (k-NN, linear probe), for fine-tuning and for study; nothing here has been "
    "evaluated for decisions about people.",
)
_BROADER_IMPACT = (
    "Features learned without labels serve any vision task, useful or harmful (paper, section 13). What the training "
    "images show too often, too rarely or unfairly, the features repeat: measure that on your own data."
)
_UNKNOWN_DATA = "Unknown: nothing beside the weights says what they were trained on."
_UNKNOWN_TRAINING = "Unknown: nothing beside the weights says how they were trained."
_BACKBONE_KEYS = (
    "backbone",
    "image_size",
    "patch_size",
    "embed_dim",
    "depth",
    "num_heads",
    "window_size",
    "position_embedding",
    "hidden_size",
)
# Of what a checkpoint was made by, the training of its classifier.
CLASSIFIER = "classifier"
# How a path of this computer begins.
LOCAL_PATH = re.compile(r"(/|\\\\|~|\.\.?[\\/]|[A-Za-z]:[\\/])")
# For resuming, not for readers: it names folders of one machine.
_OF_ONE_MACHINE = ("flags", "domains")
_NOT_NUMBERS = ("backbone", "method", "epochs")
# How readers call what is recorded of the network that a run began with; what is not here is for programs.
_START_ROWS = {
    "base_model": "started from",
    "revision": "its revision",
    "licence": "its licence",
    "image_size": "its image size in pixels",
    "positions": "its position embedding",
    "carried_over": "tensors carried over",
    "dropped": "left out",
    "weights": "hash of its weights",
    "pretraining": "its own pretraining",
}
_TABLES = {
    12: ("k-NN, top-1 accuracy on ImageNet in percent (section 8.1)", {}),
    13: (
        "linear classifier of clean ImageNet, top-1 accuracy in percent; IN-O: false positive rate at 95 % recall, "
        "lower is better (section 8.2)",
        {"IN-O_FPR95": "IN-O (FPR95)"},
    ),
    14: ("linear classifier under attack, top-1 accuracy on ImageNet in percent (section 8.3)", {"CW": "C&W"}),
}


def render_card(
    name: str,
    config: Mapping[str, Any],
    pretraining: Mapping[str, Any],
    results: Sequence[EvaluationResult],
    facts: CardFacts,
) -> ModelCard:
    """Make a card; `pretraining` says how the checkpoint was made, and its mappings become sections of the table."""
    return ModelCard.from_template(
        _metadata(name, config, facts, results, bool(_trained_on(pretraining)), _find_base_model(pretraining)),
        template_path=str(find_package_file("model_cards", "card_template.md")),
        title=facts.title or name.rsplit("/", 1)[-1],
        summary=(facts.summary or _summary(config)) + _made_nothing(pretraining) + _continued_from(pretraining),
        model_id=name,
        hidden_size=config["hidden_size"],
        classifies=_pipeline(config) == "image-classification",
        num_classes=len(config.get("id2label") or ()),
        picture_mode="L" if config.get("num_channels") == 1 else "RGB",
        backbone_table=_table({key: value for key, value in config.items() if key in _BACKBONE_KEYS}),
        training_data=" ".join(
            filter(
                None, (_trained_on(pretraining) or facts.training_data or _UNKNOWN_DATA, _classifies_on(pretraining))
            )
        ),
        recipe=facts.recipe if facts.recipe and not pretraining.get("training") else "",
        pretraining_table=_table(_name_start(pretraining)) or ("" if facts.recipe else _UNKNOWN_TRAINING),
        results=results_table(results),
        reported=find_reported_markdown(**facts.paper) if facts.paper else "",
        limits=_bullets(facts.limits or _LIMITS),
        broader_impact=facts.broader_impact or _BROADER_IMPACT,
        licence=_licence_text(facts),
        how_to_obtain=_bullets(facts.how_to_obtain),
        version=__version__,
    )


def _metadata(
    name: str,
    config: Mapping[str, Any],
    facts: CardFacts,
    results: Sequence[EvaluationResult],
    data_recorded: bool,
    base_model: str | None = None,
) -> ModelCardData:
    entries = build_model_index(results)
    return ModelCardData(
        base_model=base_model,
        license=facts.licence,
        license_name=facts.licence_name,
        license_link=facts.licence_link,
        library_name="transformers",
        pipeline_tag=_pipeline(config),
        tags=["self-supervised-learning", "vision", "synco"],
        datasets=None if data_recorded else list(facts.datasets) or None,
        model_name=name.rsplit("/", 1)[-1] if entries else None,
        eval_results=entries or None,
    )


def _find_base_model(pretraining: Mapping[str, Any]) -> str | None:
    """The repository that a run began with; a directory or file is none that the Hub could show."""
    start = pretraining.get("start") or {}
    return str(start["base_model"]) if start.get("kind") in ("hub", "timm") else None


def _made_nothing(pretraining: Mapping[str, Any]) -> str:
    """That a run's name promises what its length left no room for."""
    training = pretraining.get("training") or {}
    if training.get("synthetic_steps") != 0:
        return ""
    return f" Its run of {training.get('steps')} steps made no synthetic negative, so it trained as MoBY does."


def _continued_from(pretraining: Mapping[str, Any]) -> str:
    """What it was begun with, and under which licence that is."""
    start = pretraining.get("start") or {}
    if not start.get("base_model"):
        return ""
    licence = start.get("licence") or "not known"
    revision = say_revision(start.get("revision"))
    average = " and averaged with what was trained from it" if "end" in pretraining else ""
    return f" Continued from {name_place(str(start['base_model']))} ({revision}; licence: {licence}){average}."


def _name_start(pretraining: Mapping[str, Any]) -> dict[str, Any]:
    """What a run recorded, with the network that it began with in words, and the end of an average likewise."""
    start, end = (pretraining.get(each) for each in ("start", "end"))
    if not isinstance(start, Mapping):
        return dict(pretraining)
    rows = {called: _say(start.get(name)) for name, called in _START_ROWS.items()}
    rows["its revision"] = say_revision(rows["its revision"])
    if isinstance(end, Mapping):
        rows |= {
            "averaged with": _say(end.get("base_model")),
            "hash of the weights averaged with": _say(end.get("weights")),
        }
    rest = {key: value for key, value in pretraining.items() if key not in ("start", "end")}
    return {key: value for key, value in rows.items() if value} | rest


def _say(value: Any) -> str:
    """A recorded value as a phrase; empty if there is none."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_say(each)}" for name, each in value.items() if each not in (None, {}, []))
    if isinstance(value, list):
        return "; ".join(
            f"{each['what']} ({each['reason']})" if isinstance(each, Mapping) and "what" in each else _say(each)
            for each in value
        )
    return "" if value is None else name_place(str(value))


def _pipeline(config: Mapping[str, Any]) -> str:
    classifies = any("ImageClassification" in name for name in config.get("architectures") or ())
    return "image-classification" if classifies else "image-feature-extraction"


def _summary(config: Mapping[str, Any]) -> str:
    method = (config.get("pretraining") or {}).get("method")
    by = f" by {method}" if method else ""
    backbone = f"A {config['backbone']} backbone pretrained without labels{by}"
    if _pipeline(config) != "image-classification":
        return f"{backbone}."
    return f"{backbone}, with a classifier of {len(config.get('id2label') or ())} classes that was trained on labels."


def _trained_on(pretraining: Mapping[str, Any]) -> str:
    """The data that a run recorded; empty if none did."""
    return _name_data(pretraining.get("data"), "", "without labels")


def _classifies_on(pretraining: Mapping[str, Any]) -> str:
    """The data that the classifier was trained on; empty if none is recorded."""
    return _name_data(pretraining.get(CLASSIFIER, {}).get("train"), "The classifier: ", "with labels")


def _name_data(data: Any, beginning: str, labels: str) -> str:
    if not isinstance(data, Mapping) or not data.get("name"):
        return ""
    count = f", {data['num_images']} images" if data.get("num_images") else ""
    name, source = (name_place(str(data.get(key) or "")) for key in ("name", "source"))
    return f"{beginning}{name}{count}{f' ({source})' if source not in ('', name) else ''}, {labels}."


def _licence_text(facts: CardFacts) -> str:
    if facts.licence is None:
        return "\n\n".join(part for part in (facts.licence_note, _NO_LICENCE) if part)
    name = facts.licence_name or facts.licence
    link = f" ({facts.licence_link})" if facts.licence_link else ""
    return f"{name}{link}." + (f" {facts.licence_note}" if facts.licence_note else "")


def _bullets(entries: Sequence[str]) -> str:
    return "\n".join(f"- {entry}" for entry in entries)


def _table(values: Mapping[str, Any], prefix: str = "") -> str:
    if not values:
        return ""
    lines = ["| setting | value |", "|---|---|"] if not prefix else []
    for key, value in values.items():
        if key in _OF_ONE_MACHINE:
            continue
        if isinstance(value, Mapping):
            lines.append(_table(value, f"{prefix}{key}."))
        elif value is not None:
            lines.append(f"| {prefix}{key} | {_cell(value)} |")
    return "\n".join(line for line in lines if line)


def results_table(results: Sequence[EvaluationResult]) -> str:
    """The measured numbers as the card shows them, each with protocol, data, split and number of images."""
    if not results:
        return "Not measured yet: `synco-hub evaluate` writes results beside the weights."
    scatter = any(r.standard_errors for r in results)
    rows = [
        f"| {_cell(r.protocol.title)} | {_cell(r.dataset.name)} ({_cell(r.dataset.split)}, {r.dataset.count} images) "
        f"| {metric} | {value:.2f}{' (partial)' if r.partial else ''} |{_error(r, metric) if scatter else ''}"
        for r in results
        for metric, value in select_metrics(r).items()
    ]
    lines = [
        f"| protocol | data | metric | value |{' ± |' if scatter else ''}",
        f"|---|---|---|---:|{'---:|' if scatter else ''}",
        *rows,
    ]
    notes = [f"{r.protocol.title} on {r.dataset.name}: {_plain(note)}" for r in results for note in r.notes]
    if scatter:
        notes = [*explain_standard_errors(error for r in results for error in r.standard_errors.values()), *notes]
    return "\n".join(lines) + (f"\n\n{_bullets(list(dict.fromkeys(notes)))}" if notes else "")


def _error(result: EvaluationResult, metric: str) -> str:
    return f" {result.standard_errors[metric]:.2f} |" if metric in result.standard_errors else "  |"


def _plain(text: str) -> str:
    """One line, in which nothing begins a heading or a table."""
    return " ".join(text.split())


def _cell(value: Any) -> str:
    return " ".join(name_place(str(value)).split()).replace("|", "\\|")


def name_place(text: str) -> str:
    """The last part of a path of this computer, which tells readers nothing more and may hold somebody's name."""
    return re.split(r"[\\/]+", text.rstrip("\\/"))[-1] if LOCAL_PATH.match(text) else text


@dataclass(frozen=True)
class ReportedTable:
    """One row of one table of the paper.

    Attributes:
        number: The table.
        about: What was measured.
        values: Column to number as printed.
    """

    number: int
    about: str
    values: dict[str, str]


def find_reported_tables(method: str, backbone: str) -> list[ReportedTable]:
    """The rows of Tables 12, 13 and 14 about one checkpoint of the paper."""
    found = []
    for number, (about, renamed) in _TABLES.items():
        rows = [row for row in read_paper_table(number) if (row["method"], row["backbone"]) == (method, backbone)]
        if len(rows) != 1:
            raise ValueError(f"Table {number} of the paper has no row of {method!r} with {backbone!r}")
        values = {renamed.get(key, key): value for key, value in rows[0].items() if key not in _NOT_NUMBERS}
        found.append(ReportedTable(number, about, values))
    return found


def find_reported_markdown(method: str, backbone: str) -> str:
    """The same as Markdown, a table each, with its number in the paper above it."""
    parts = []
    for table in find_reported_tables(method, backbone):
        heads, values = " | ".join(table.values), " | ".join(table.values.values())
        rule = "---:|" * len(table.values)
        parts.append(f"Table {table.number} of the paper: {table.about}.\n\n| {heads} |\n|{rule}\n| {values} |")
    return "\n\n".join(parts)
