"""A measurement as data: what was measured, on what, by which protocol, and the numbers.

Evaluators, the linear probe and fine-tuning all write this one form; tables and model cards read it.
Accuracies, average precisions and error rates are in percent, as in the tables of the paper.
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from synco_hub.atomic_write import atomic_write
from synco_hub.version import __version__

if TYPE_CHECKING:
    import torch

SCHEMA_VERSION = 1
CHOSEN = "chosen on the test split"
_HASH = re.compile(r"[0-9a-f]{16}")

Record = TypeVar("Record")


@dataclass(frozen=True)
class DataSource:
    """One split of a data set, as it was measured.

    Attributes:
        name: Name in the catalog, folder, or Hub id.
        split: Name of the split.
        count: Number of images that entered the measurement.
        fingerprint: Hash or revision that changes when the images or labels change, if known.
        description: One sentence for people, including how the split was made if it is not the official one.
        num_classes: Number of classes, if the split has labels.
    """

    name: str
    split: str
    count: int
    fingerprint: str | None = None
    description: str = ""
    num_classes: int | None = None


@dataclass(frozen=True)
class ModelSource:
    """The frozen model that was measured.

    Attributes:
        name: Short name, directory or Hub id.
        feature: Which token, which pooling and which norm the feature was, in words.
        revision: Commit on the Hub, or in words why there is none; None in results of older versions.
        num_parameters: Parameters of the network without heads, if known.
        weights: Hash of what was measured, see :mod:`synco_hub.weights_identity`; None in results of older versions,
            and where no network was measured.
        precision: Type of the weights and of the arithmetic; None in results of older versions.
    """

    name: str
    feature: str = ""
    revision: str | None = None
    num_parameters: int | None = None
    weights: str | None = None
    precision: str | None = None


@dataclass(frozen=True)
class ProtocolFacts:
    """How it was measured.

    Attributes:
        name: The protocol's short name, such as ``knn``.
        parameters: Every setting that changes the numbers; JSON values only.
    """

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """What tells its results from those of the same protocol by another probe."""
        return f"{self.name}, {self.parameters['probe']} probe" if "probe" in self.parameters else self.name


def explain_standard_errors(errors: Iterable[float]) -> tuple[str, ...]:
    """What a reader of standard errors has to know: a sentence, and a second one where one of them is 0."""
    known = list(errors)
    notes = ["± is one standard error: what another draw of as many test images would change."] if known else []
    if 0.0 in known:
        # The rule of three: (1 - 3 / n) ** n is about 5 %.
        notes.append("± 0.00: none or all of n images were right; of all there are, 300 / n % may still be otherwise.")
    return tuple(notes)


def library_versions(*further: str) -> dict[str, str]:
    """Versions that can change a number: ``python``, ``torch``, ``timm``, ``transformers``, ``synco_hub``.

    Args:
        further: Other packages that a protocol computes with.
    """
    measured_with = {name: metadata.version(name) for name in ("torch", "timm", "transformers", *further)}
    return {"python": platform.python_version(), **measured_with, "synco_hub": __version__}


def device_name(device: torch.device | str) -> str:
    """The device in words: ``cpu``, or the name of the accelerator."""
    import torch  # reading results must not cost the seconds of this import

    chosen = torch.device(device)
    return torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else str(chosen)


@dataclass(frozen=True)
class EvaluationResult:
    """Metrics by name with everything that is needed to compare them or to measure them again.

    Attributes:
        metrics: Finite numbers by name, such as ``{"top1_k10": 61.5}``; accuracies in percent.
        model: The model that was measured.
        dataset: The split that the metrics are about.
        protocol: Name and parameters of the protocol.
        training_dataset: The split that neighbours or a head were taken from, if the protocol has one.
        preprocessing: How an image became the network's input; JSON values only.
        seed: Seed of whatever was drawn, None if nothing was.
        versions: Library versions, see :func:`library_versions`.
        device: Device in words, see :func:`device_name`.
        duration_s: Wall-clock seconds.
        skipped_files: Files that could not be read and did not enter the numbers.
        partial: True if less was measured than the protocol asks for (a subset, an interrupted run).
        notes: What a reader of the numbers has to know, one sentence each.
        standard_errors: Of the metrics that are shares of independent images, in the metric's unit, by its name.

    Raises:
        ValueError: If there is no metric, a metric is NaN or infinite, or a setting is not a JSON value.
    """

    metrics: Mapping[str, float]
    model: ModelSource
    dataset: DataSource
    protocol: ProtocolFacts
    training_dataset: DataSource | None = None
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    versions: Mapping[str, str] = field(default_factory=library_versions)
    device: str = "cpu"
    duration_s: float = 0.0
    skipped_files: tuple[str, ...] = ()
    partial: bool = False
    notes: tuple[str, ...] = ()
    standard_errors: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.metrics:
            raise ValueError("metrics={} is empty: a result carries at least one number")
        for name, value in self.metrics.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(
                    f"metric {name!r} is {value!r}: metrics are finite numbers; look for NaN in the features or labels"
                )
        try:
            self.to_json()
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"the result of protocol {self.protocol.name!r} does not fit into JSON: {error}"
            ) from None

    def to_dict(self) -> dict[str, Any]:
        """The result as plain values, ``schema_version`` first."""
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}

    def to_json(self) -> str:
        """The result as JSON text, indented, without NaN."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the JSON to ``path``, whole or not at all, and return the path."""
        with atomic_write(path) as temporary:
            temporary.write_text(self.to_json(), encoding="utf-8")
        return Path(path)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], origin: str = "the result") -> Self:
        """Build a result from what :meth:`to_dict` gave.

        Args:
            values: Plain values.
            origin: Where they come from, for error messages.

        Raises:
            ValueError: If they are of another schema version, or a field is missing, unknown or of another kind.
        """
        version = values.get("schema_version")
        if version != SCHEMA_VERSION:
            raise ValueError(
                f"{origin} has schema_version {version!r}, this version of synco-hub reads {SCHEMA_VERSION}: "
                "measure again, or read it with the version of synco-hub that it names"
            )
        rest = {key: value for key, value in values.items() if key != "schema_version"}
        try:
            nested = {
                "model": _build(ModelSource, _read_model(rest.pop("model"))),
                "dataset": _build(DataSource, rest.pop("dataset")),
                "protocol": _build(ProtocolFacts, rest.pop("protocol")),
            }
            bank = rest.pop("training_dataset", None)
            for key in ("skipped_files", "notes"):
                rest[key] = tuple(rest.get(key, ()))
            return _build(
                cls, {**rest, **nested, "training_dataset": None if bank is None else _build(DataSource, bank)}
            )
        except KeyError as error:
            raise ValueError(f"{origin} has no {error.args[0]!r}: it is not a result of synco-hub") from None
        except (TypeError, AttributeError) as error:
            raise ValueError(f"{origin} is not a result of synco-hub: {error}") from None

    @classmethod
    def load(cls, path: str | os.PathLike[str], protocol: str | None = None) -> Self:
        """Read a result.

        Args:
            path: A file that :meth:`save` wrote.
            protocol: The protocol that the result must be of; None takes any.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is not JSON, not a result, of another schema version or of another protocol.
        """
        origin = f"{str(path)!r}"
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{origin} is not a JSON file ({error}): give a file that `evaluate` wrote") from None
        if not isinstance(values, dict):
            raise ValueError(
                f"{origin} holds a JSON {type(values).__name__}, not a result: give one that `evaluate` wrote"
            )
        result = cls.from_dict(values, origin)
        if protocol is not None and result.protocol.name != protocol:
            raise ValueError(
                f"{origin} is a result of protocol {result.protocol.name!r}, {protocol!r} is asked for: "
                f"give a file that `evaluate {protocol}` wrote"
            )
        return result


def _read_model(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Older versions wrote the hash of a classifier's weights in the place of the commit."""
    revision = values.get("revision")
    if "weights" not in values and isinstance(revision, str) and _HASH.fullmatch(revision):
        return {**values, "revision": None, "weights": revision}
    return values


def _build(kind: type[Record], values: Mapping[str, Any]) -> Record:
    known = {entry.name for entry in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - known)
    if unknown:
        raise TypeError(f"unknown {', '.join(unknown)} in its {kind.__name__}")
    return kind(**values)
