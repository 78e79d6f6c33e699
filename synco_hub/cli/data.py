"""`synco-hub data`: the data sets of the paper and where they come from."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from synco_hub.cli.options import DataListOptions, DataPrepareOptions, DataVerifyOptions
from synco_hub.data import load_dataset
from synco_hub.data.catalog.row import DatasetRow
from synco_hub.data.catalog.sets import CATALOG, find_catalog_row, find_row_meant, format_catalog
from synco_hub.data.folder_layout import printable
from synco_hub.data.image_dataset import ImageDataset
from synco_hub.data.image_folder import PRETRAINING
from synco_hub.data.preparation import PreparationSettings, parse_bytes, prepare_dataset
from synco_hub.data.segmentation import SEGMENTATION_SETS
from synco_hub.data.verification import SplitVerdict, verify_dataset
from synco_hub.settings import DatasetChoice


def list_datasets(options: DataListOptions) -> None:
    """`synco-hub data list`."""
    if options.as_json:
        print(json.dumps([_describe_row(row) for row in CATALOG.values()], indent=2))
        return
    if options.markdown:
        print(format_catalog(CATALOG.values()), end="")
        return
    width = max(map(len, CATALOG))
    for row in CATALOG.values():
        counts = ", ".join(f"{split} {count:,}" for split, count in row.counts.items())
        print(f"{row.name:<{width}}  {row.num_classes:>4} classes  {counts:<31}  {row.dataset_id or 'not on the Hub'}")
        if row.difference:
            print(f"{'':<{width}}  {row.difference}")
    print("\nWith masks of classes, for `synco-hub evaluate segmentation`:")
    for name, masked in SEGMENTATION_SETS.items():
        counts = "train {:,}, test {:,}".format(*masked.counts)
        print(f"{name:<{width}}  {len(masked.class_names):>4} classes  {counts:<31}  {masked.dataset_id}")


def verify(options: DataVerifyOptions, choice: DatasetChoice) -> int:
    """`synco-hub data verify`; exit code 1 where data and catalog differ."""
    row = find_catalog_row(options.name)
    if choice.data_dir is None:
        if Path(options.name).is_dir():
            folder = f"./{options.name} verifies the folder of that name in the current directory"
            print(f"reading the Hub copy; --data-dir {folder}", file=sys.stderr)
        # Named outright, the row's own copy is not hidden by a folder of its name.
        choice = replace(choice, dataset_id=choice.dataset_id or options.name)
    splits = {split: load_dataset(replace(choice, dataset=row.name), split) for split in row.splits}
    verdicts = verify_dataset(row, splits)
    if options.as_json:
        print(json.dumps({split: _verdict(row, verdict) for split, verdict in verdicts.items()}, indent=2))
    else:
        for verdict in verdicts.values():
            _print_verdict(row, verdict)
        if row.difference:
            print(row.difference)
    return 0 if all(verdict.agrees for verdict in verdicts.values()) else 1


def prepare(options: DataPrepareOptions, choice: DatasetChoice) -> None:
    """`synco-hub data prepare`."""
    settings = PreparationSettings(parse_bytes(options.shard_size), options.num_workers, options.max_bad_fraction)
    splits: dict[str, ImageDataset] = {}
    for name in options.split or _open_splits(options.source, choice):
        try:
            splits[name] = load_dataset(replace(choice, dataset=options.source), name)
        except ValueError as error:
            # Without a wish a set of training images only is no error.
            if options.split or name == "train" or not splits:
                raise
            print(f"no test split: {printable(str(error))}")
    for name, done in prepare_dataset(splits, options.output, settings).items():
        print(f"{name}: {done.images:,} images in {done.files} files")
        if done.skipped:
            rest = f" and {len(done.skipped) - 10} more" if len(done.skipped) > 10 else ""
            print(f"  left out {len(done.skipped)} unreadable: {', '.join(done.skipped[:10])}{rest}")
            print(f"  {done.reasons}")
    if not options.split:
        _say_what_pretraining_would_take(splits.get("train"), replace(choice, dataset=options.source))
    output = printable(str(options.output))
    print(f"wrote {output}; read it with --dataset {output}")


def _say_what_pretraining_would_take(train: ImageDataset | None, choice: DatasetChoice) -> None:
    """Of what lies here, images without a class and those that were drawn for the test are written by wish only."""
    if train is None or not Path(choice.dataset).expanduser().is_dir():
        return
    whole = load_dataset(choice, PRETRAINING)
    if len(whole) > len(train):
        print(f"pretraining could take {len(whole):,} images of {choice.dataset}: --split {PRETRAINING} writes them")


def _open_splits(source: str, choice: DatasetChoice) -> list[str]:
    row = find_row_meant(source, choice.data_dir, choice.dataset_id)
    return ["train", "test"] if row is None else list(row.splits)


def _print_verdict(row: DatasetRow, verdict: SplitVerdict) -> None:
    printed = f", Table 9 prints {row.table_9[verdict.split]:,}" if row.table_9 else ""
    print(
        f"{'agrees ' if verdict.agrees else 'DIFFERS'}  {verdict.split}: {verdict.images:,} images of "
        f"{verdict.expected_images:,}{printed}; {verdict.classes} classes of {verdict.expected_classes}"
    )
    for problem in verdict.problems:
        print(f"         {problem}")


def _verdict(row: DatasetRow, verdict: SplitVerdict) -> dict[str, Any]:
    return {
        "agrees": verdict.agrees,
        "images": verdict.images,
        "expected_images": verdict.expected_images,
        "classes": verdict.classes,
        "expected_classes": verdict.expected_classes,
        "table_9": row.table_9[verdict.split] if row.table_9 else None,
        "problems": list(verdict.problems),
        "difference": row.difference,
    }


def _describe_row(row: DatasetRow) -> dict[str, Any]:
    return {
        "name": row.name,
        "dataset_id": row.dataset_id,
        "splits": row.splits,
        "num_classes": row.num_classes,
        "counts": row.counts,
        "metric": row.metric,
        "licence": row.licence,
        "table_9": row.table_9,
        "difference": row.difference,
    }
