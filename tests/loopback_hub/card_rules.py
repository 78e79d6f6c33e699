"""What the loopback Hub asks of a README and of `.eval_results/*.yaml`.

The checks of the real Hub that can be made here, written from the formats' descriptions and apart from the code that
writes cards.
"""

from __future__ import annotations

import re
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData

# Identifiers the Hub's card metadata knows; those that this project or its users' weights could carry.
LICENCES = {
    "apache-2.0", "mit", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-sa-4.0", "cc-by-nc-sa-4.0", "cc0-1.0", "bsd-3-clause",
    "bsd-2-clause", "gpl-3.0", "lgpl-3.0", "openrail", "unlicense", "other", "unknown",
}  # fmt: skip
PIPELINES = {"image-feature-extraction", "image-classification"}
SPACE_COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
_FRONT = re.compile(r"\A---\s*\n(.*?)\n---\s*(\n|\Z)", re.DOTALL)


def readme_errors(content: str, kind: str) -> list[str]:
    """What is wrong with a README's metadata; an empty list if nothing is."""
    found = _FRONT.match(content)
    if not found:
        return ["no metadata: the file must begin with a YAML block between lines of three dashes"]
    try:
        data = yaml.safe_load(found.group(1))
    except yaml.YAMLError as error:
        return [f"the metadata is not YAML: {error}"]
    if not isinstance(data, dict):
        return ["the metadata is not a mapping"]
    return _space_errors(data) if kind == "space" else _model_errors(data)


def _model_errors(data: dict[str, Any]) -> list[str]:
    errors = []
    licence = data.get("license")
    if licence is not None and licence not in LICENCES:
        errors.append(f'"license" must be one of {sorted(LICENCES)}, not {licence!r}')
    if licence == "other" and not data.get("license_name"):
        errors.append('"license_name" is required where "license" is "other"')
    if (link := data.get("license_link")) is not None and not re.fullmatch(r"LICENSE(\.md)?|https?://\S+", link):
        errors.append(f'"license_link" must be LICENSE, LICENSE.md or an address, not {link!r}')
    if (pipeline := data.get("pipeline_tag")) is not None and pipeline not in PIPELINES:
        errors.append(f'"pipeline_tag" must be one of {sorted(PIPELINES)}, not {pipeline!r}')
    for key in ("tags", "datasets", "metrics"):
        value = data.get(key, [])
        if not isinstance(value, list) or not all(isinstance(entry, str) and entry for entry in value):
            errors.append(f'"{key}" must be a list of texts')
    for dataset in data.get("datasets", []):
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(dataset)):
            errors.append(f'"datasets" has {dataset!r}, which is no data set id')
    if "model-index" in data:
        errors += _model_index_errors(data)
    return errors


def _model_index_errors(data: dict[str, Any]) -> list[str]:
    """The schema of model-index, walked by hand, and the client's own parser on top."""
    errors = []
    index = data["model-index"]
    if not isinstance(index, list) or not index:
        return ['"model-index" must be a list with an entry']
    for model in index:
        if not isinstance(model.get("name"), str) or not model["name"]:
            errors.append('"model-index[].name" must be a text')
        for result in model.get("results", []):
            if not result.get("task", {}).get("type"):
                errors.append('"model-index[].results[].task.type" is required')
            for key in ("type", "name"):
                if not result.get("dataset", {}).get(key):
                    errors.append(f'"model-index[].results[].dataset.{key}" is required')
            if not result.get("metrics"):
                errors.append('"model-index[].results[].metrics" is required')
            for metric in result.get("metrics", []):
                if not metric.get("type") or not isinstance(metric.get("value"), (int, float)):
                    errors.append('"model-index[].results[].metrics[]" needs a type and a number as value')
    if not errors:
        parsed = ModelCardData(**data, ignore_metadata_errors=False).eval_results
        if not parsed or not all(isinstance(entry, EvalResult) for entry in parsed):
            errors.append('"model-index" has no result')
    return errors


def _space_errors(data: dict[str, Any]) -> list[str]:
    errors = [f'"{key}" is required' for key in ("title", "sdk") if not data.get(key)]
    for key in ("colorFrom", "colorTo"):
        if data.get(key, "red") not in SPACE_COLOURS:
            errors.append(f'"{key}" must be one of {sorted(SPACE_COLOURS)}')
    if len(data.get("short_description", "")) > 60:
        errors.append('"short_description" must not be longer than 60 characters')
    return errors


def evaluation_errors(content: str) -> list[str]:
    """What is wrong with one file of `.eval_results`."""
    try:
        entries = yaml.safe_load(content)
    except yaml.YAMLError as error:
        return [f"not YAML: {error}"]
    if not isinstance(entries, list) or not entries:
        return ["must be a list of results"]
    errors = []
    for entry in entries:
        dataset = entry.get("dataset", {})
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(dataset.get("id", ""))):
            errors.append(f"dataset.id must be a data set of the Hub, not {dataset.get('id')!r}")
        if not isinstance(dataset.get("task_id"), str) or not dataset["task_id"]:
            errors.append("dataset.task_id is required")
        if not isinstance(entry.get("value"), (int, float)):
            errors.append("value must be a number")
        unknown = set(entry) - {"dataset", "value", "verifyToken", "date", "source", "notes"}
        errors += [f"unknown field {key}" for key in sorted(unknown)]
        if "source" in entry and not entry["source"].get("url"):
            errors.append("source.url is required where there is a source")
    return errors
