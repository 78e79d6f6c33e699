"""Measured splits on disk: features once computed serve every later k-NN measurement, with all that results say."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

from synco_hub.evaluation.measurement.measured_split import MeasuredSplit
from synco_hub.features import Features
from synco_hub.results import DataSource, ModelSource

_KEY = "measured_split"


def save_split(split: MeasuredSplit, model: ModelSource, path: Path) -> Path:
    """Write the features of a split with their origin, whole or not at all.

    Args:
        split: What was measured.
        model: By which model.
        path: A safetensors file.
    """
    facts = {
        "source": asdict(split.source),
        "class_names": split.class_names,
        "skipped_files": split.skipped_files,
        "preprocessing": split.preprocessing,
        "model": asdict(model),
    }
    text = json.dumps(facts, ensure_ascii=False)
    return replace(split.features, facts={**split.features.facts, _KEY: text}).save(path)


def load_split(path: Path) -> tuple[MeasuredSplit, ModelSource]:
    """Read what :func:`save_split` wrote.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file holds no measured split.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{str(path)!r} does not exist: write it with --save-features first")
    features = Features.load(path)
    if _KEY not in features.facts:
        raise ValueError(
            f"{str(path)!r} does not say which split and model its features are of: write it with --save-features"
        )
    facts = json.loads(features.facts[_KEY])
    split = MeasuredSplit(
        features,
        DataSource(**facts["source"]),
        tuple(facts["class_names"]),
        tuple(facts["skipped_files"]),
        facts["preprocessing"],
    )
    return split, ModelSource(**facts["model"])


def check_same_model(train: ModelSource, test: ModelSource) -> None:
    """Check that two splits were measured by one model.

    Raises:
        ValueError: Naming both.
    """
    if train != test:
        raise ValueError(
            f"the training features are of {train.name} ({train.feature}), the test features of {test.name} "
            f"({test.feature}): neighbours need one model; compute both again with --save-features"
        )
