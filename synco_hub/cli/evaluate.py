"""`synco-hub evaluate`: one function for every protocol, and `all` for what model and data allow."""

from __future__ import annotations

import os
import sys
import traceback
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from synco_hub.cli.options import (
    BackboneOption,
    ClassifierOption,
    EvaluateAllOptions,
    NetworkOption,
    ResultFile,
    ResultFolder,
)
from synco_hub.errors import DEBUG_VARIABLE, DoesNotApplyError
from synco_hub.output_paths import check_output_folder
from synco_hub.protocols import EVALUATORS, measure, resolve
from synco_hub.results import EvaluationResult
from synco_hub.results_table import compare_results, to_markdown
from synco_hub.settings import DatasetChoice, ForwardSettings

NULL_EXIT_CODE = 3
_NAMED_AT_MOST = 10


def evaluate_protocol(
    protocol: str,
    measured: BackboneOption | ClassifierOption | NetworkOption,
    data: DatasetChoice,
    place: ResultFile | ResultFolder,
    settings: Any,
) -> int:
    """`synco-hub evaluate <protocol>`: measure, print the table and what a reader has to know."""
    output = place.output_dir if isinstance(place, ResultFolder) else place.output
    result = measure(protocol, data=data, settings=settings, output=output, **vars(measured))
    module = EVALUATORS[protocol].function.partition(":")[0]
    print(resolve(f"{module}:format_table")(result))
    print_end(result, output)
    if protocol == "adversarial" and (nulls := resolve(f"{module}:list_null_attacks")(result)):
        print(f"error: {', '.join(nulls)} left every input as it was: no measurement of robustness", file=sys.stderr)
        return NULL_EXIT_CODE
    if fault := _require_every_video(protocol, result):
        raise ValueError(fault)
    return 0


def _require_every_video(protocol: str, result: EvaluationResult) -> str | None:
    """What to say where videos could not be measured, which is no success though the others' result is kept."""
    if protocol != "video-segmentation" or not result.skipped_files:
        return None
    return (
        f"{', '.join(result.skipped_files)} could not be measured, the result of the others "
        f"({result.dataset.description}) is marked partial; first: {result.notes[0]}"
    )


def print_end(result: EvaluationResult, output: Path) -> None:
    """Notes, unreadable files and the result's place."""
    for note in result.notes:
        print(f"  {note}")
    if skipped := result.skipped_files:
        print(f"  skipped {len(skipped)} unreadable files: {', '.join(skipped[:_NAMED_AT_MOST])}")
    print(f"wrote {output}")


# All protocols that need no training


@dataclass(frozen=True)
class PublishedSet:
    """A protocol's images as their archives unpack.

    Attributes:
        protocol: A key of `EVALUATORS`.
        folders: Any one of them is enough.
        output: Where the result goes.
        dataset: Its name, where the protocol has several.
        inside: Whether the protocol wants the folder itself rather than the one that holds it.
    """

    protocol: str
    folders: tuple[str, ...]
    output: str
    dataset: str | None = None
    inside: bool = False


PUBLISHED = (
    PublishedSet(
        "robustness",
        (
            *("imagenet-c", "imagenet-a", "imagenet-r", "sketch"),
            *(f"imagenetv2-{kind}-format-val" for kind in ("matched-frequency", "threshold0.7", "top-images")),
        ),
        "robustness.json",
    ),
    PublishedSet("ood", ("imagenet-o",), "ood.json"),
    PublishedSet("retrieval", ("roxford5k",), "retrieval-roxford5k.json", "roxford5k"),
    PublishedSet("retrieval", ("rparis6k",), "retrieval-rparis6k.json", "rparis6k"),
    PublishedSet("video-segmentation", ("DAVIS",), "davis", inside=True),
    PublishedSet("discovery", ("VOCdevkit", "VOC2007"), "discovery.json"),
    PublishedSet("segmentation", ("VOCdevkit/VOC2012", "VOC2012"), "segmentation-voc2012.json", "voc2012"),
    PublishedSet("segmentation", ("ADEChallengeData2016",), "segmentation-ade20k.json", "ade20k"),
)


@dataclass(frozen=True)
class Measurement:
    """One line of `evaluate all`: a protocol on a data set."""

    protocol: str
    data: DatasetChoice
    output: Path

    def __str__(self) -> str:
        return f"{self.protocol} on {self.data.dataset}"


def evaluate_all(options: EvaluateAllOptions, forward: ForwardSettings) -> None:
    """`synco-hub evaluate all`: each result is saved at once, and what fails ends only itself."""
    check_output_folder(options.output_dir, "--output-dir")
    planned, skipped = plan_measurements(options)
    for reason in skipped:
        print(f"skipped {reason}")
    results: list[EvaluationResult] = []
    failed: list[str] = []
    at: Any = {} if options.model_revision is None else {"model_revision": options.model_revision}
    at |= {} if options.leak_check else {"leak_check": False}
    for measurement in planned:
        row = EVALUATORS[measurement.protocol]
        known = {field.name for field in fields(row.settings)}
        settings = row.settings(**{name: value for name, value in vars(forward).items() if name in known})
        print(f"{measurement}:")
        try:
            result = measure(measurement.protocol, options.model, measurement.data, settings, measurement.output, **at)
        except DoesNotApplyError as error:
            skipped.append(f"{measurement}: {_one_line(error)}")
            print(f"skipped {skipped[-1]}")
            continue
        except Exception as error:
            if os.environ.get(DEBUG_VARIABLE):
                traceback.print_exc()
            failed.append(f"{measurement}: {_one_line(error)}")
            print(f"failed {failed[-1]}")
            continue
        print_end(result, measurement.output)
        results.append(result)
        if fault := _require_every_video(measurement.protocol, result):
            failed.append(f"{measurement}: {fault}")
            print(f"failed {failed[-1]}")
    if results:
        print(to_markdown(compare_results(results)), end="")
    if not results:
        raise ValueError(f"nothing could be measured: {'; '.join([*failed, *skipped])}")
    if failed:
        raise ValueError(f"{len(failed)} of {len(planned)} measurements failed: {'; '.join(failed)}")


def plan_measurements(options: EvaluateAllOptions) -> tuple[list[Measurement], list[str]]:
    """Protocols on the data sets that are named and on the archives that are there, and why others are not planned."""
    planned: list[Measurement] = []
    absent: list[str] = []
    for dataset in options.dataset or [DatasetChoice.dataset]:
        # A data set is a path or has settings: neither may lead out of the output folder.
        folder = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in dataset.strip("./"))
        for protocol in (name for name, row in EVALUATORS.items() if row.anywhere):
            choice = DatasetChoice(dataset, split_seed=options.split_seed)
            planned.append(Measurement(protocol, choice, options.output_dir / folder / f"{protocol}.json"))
    if options.data_dir is None:
        return planned, absent
    if not options.data_dir.is_dir():
        raise FileNotFoundError(
            f"--data-dir {options.data_dir}: no such folder; give the one that holds the unpacked archives."
        )
    for row in PUBLISHED:
        found = [folder for folder in row.folders if (options.data_dir / folder).is_dir()]
        dataset = row.dataset or EVALUATORS[row.protocol].dataset
        if not found:
            absent.append(f"{row.dataset or row.protocol}: no {' or '.join(row.folders)} in {options.data_dir}")
            continue
        place = options.data_dir / found[0] if row.inside else options.data_dir
        planned.append(Measurement(row.protocol, DatasetChoice(dataset, str(place)), options.output_dir / row.output))
    return planned, absent


def _one_line(error: Exception) -> str:
    said = " ".join(str(error).split())
    return said if isinstance(error, (ValueError, OSError, ImportError)) else f"{type(error).__name__}: {said}"
