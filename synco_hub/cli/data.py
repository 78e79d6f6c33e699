"""`synco-hub data`: the data sets of the paper and where they come from."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from synco_hub.cli.dataset_flags import Config, DataDir, DatasetId, ImageColumn, LabelColumn, Revision

if TYPE_CHECKING:
    from synco_hub.data.catalog.row import DatasetRow
    from synco_hub.data.image_dataset import ImageDataset
    from synco_hub.data.verification import SplitVerdict

data = typer.Typer(no_args_is_help=True, help="The data sets of the paper.")


@data.callback()
def root() -> None:
    """The data sets of the paper."""


@data.command("list")
def list_datasets(
    as_json: bool = typer.Option(False, "--json", help="Print rows as JSON."),
    markdown: bool = typer.Option(False, "--markdown", help="Print the table of the README."),
) -> None:
    """List every data set of the paper by the name that --dataset takes.

    Example: synco-hub data list --json
    """
    from synco_hub.data.catalog.sets import (
        CATALOG,  # torch comes with it: only when the command runs, never for --help
        catalog_markdown,
    )

    if as_json:
        print(json.dumps([_published(row) for row in CATALOG.values()], indent=2))
        return
    if markdown:
        print(catalog_markdown(CATALOG.values()), end="")
        return
    width = max(map(len, CATALOG))
    for row in CATALOG.values():
        counts = ", ".join(f"{split} {count:,}" for split, count in row.counts.items())
        print(f"{row.name:<{width}}  {row.num_classes:>4} classes  {counts:<31}  {row.dataset_id or 'not on the Hub'}")
        if row.difference:
            print(f"{'':<{width}}  {row.difference}")


@data.command("verify")
def verify(
    name: str = typer.Argument(help="A name of `synco-hub data list`."),
    data_dir: str | None = typer.Option(None, help="Folder with the files; without it the Hub copy is downloaded."),
    dataset_id: str | None = typer.Option(None, help="Another copy on the Hub."),
    config: Config = None,
    revision: str | None = typer.Option(None, help="Commit, branch or tag on the Hub."),
    image_column: str | None = typer.Option(None, help="Column of the images, where it is another one."),
    label_column: str | None = typer.Option(None, help="Column of the labels, where it is another one."),
    split_seed: int = typer.Option(0, help="Seed of the draw where there is no official split."),
    as_json: bool = typer.Option(False, "--json", help="Print the verdict as JSON."),
) -> None:
    """Compare images, classes, their order and the splits with the catalog; exit code 1 where they differ.

    Example: synco-hub data verify imagenet-a --data-dir ~/imagenet-a
    """
    # torch takes seconds to import: only when the command runs, never for --help.
    from synco_hub.data import load_dataset
    from synco_hub.data.catalog.sets import catalog_row
    from synco_hub.data.verification import verify_dataset

    row = catalog_row(name)
    if data_dir is None and Path(name).is_dir():
        note = f"reading the Hub copy; --data-dir ./{name} verifies the folder of that name in the current directory"
        typer.echo(note, err=True)
    opened = partial(
        load_dataset,
        name,
        seed=split_seed,
        data_dir=data_dir,
        # Named outright, the row's own copy is not hidden by a folder of its name.
        dataset_id=dataset_id or (name if data_dir is None else None),
        config=config,
        revision=revision,
        image_column=image_column,
        label_column=label_column,
    )
    splits = {split: opened(split) for split in row.splits}
    verdicts = verify_dataset(row, splits)
    if as_json:
        print(json.dumps({split: _verdict(row, verdict) for split, verdict in verdicts.items()}, indent=2))
    else:
        for verdict in verdicts.values():
            _say(row, verdict)
        if row.difference:
            print(row.difference)
    if not all(verdict.agrees for verdict in verdicts.values()):
        raise typer.Exit(1)


@data.command("prepare")
def prepare(
    source: str = typer.Argument(help="A name of `synco-hub data list`, a folder, a Hub id, or fractals."),
    output: Path = typer.Option(..., help="New folder for the files, or one in which this command was stopped."),
    shard_size: str = typer.Option("256MB", help="Size of a file; a stream reads as many at once as there are."),
    data_dir: DataDir = None,
    dataset_id: DatasetId = None,
    config: Config = None,
    revision: Revision = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    split: list[str] = typer.Option(None, help="Splits to write; repeat for several. Default: train and test."),
    split_seed: int = typer.Option(0, help="Seed of the split where there is no official one."),
    num_workers: int = typer.Option(4, help="Threads that read and check images."),
    max_bad_fraction: float = typer.Option(0.01, help="Share of images that may be unreadable."),
) -> None:
    """Write any data set as parquet files that stream well; images keep their bytes, a stopped run continues.

    Example: synco-hub data prepare ./photographs --output ./photographs-parquet --shard-size 256MB
    """
    from synco_hub.data import load_dataset
    from synco_hub.data.preparation import PreparationSettings, bytes_of, prepare_dataset

    settings = PreparationSettings(bytes_of(shard_size), num_workers, max_bad_fraction)
    opened = partial(
        load_dataset,
        source,
        seed=split_seed,
        data_dir=data_dir,
        dataset_id=dataset_id,
        config=config,
        revision=revision,
        image_column=image_column,
        label_column=label_column,
    )
    splits: dict[str, ImageDataset] = {}
    for name in split or _splits_of(source, data_dir, dataset_id):
        try:
            splits[name] = opened(name)
        except ValueError as error:
            # Without a wish a set of training images only is no error.
            if split or name == "train" or not splits:
                raise
            print(f"no test split: {error}")
    for name, done in prepare_dataset(splits, output, settings).items():
        print(f"{name}: {done.images:,} images in {done.files} files")
        if done.skipped:
            rest = f" and {len(done.skipped) - 10} more" if len(done.skipped) > 10 else ""
            print(f"  left out {len(done.skipped)} unreadable: {', '.join(done.skipped[:10])}{rest}")
    print(f"wrote {output}; read it with --dataset {output}")


def _splits_of(source: str, data_dir: str | None, dataset_id: str | None) -> list[str]:
    from synco_hub.data.catalog.sets import row_meant

    row = row_meant(source, data_dir, dataset_id)
    return ["train", "test"] if row is None else list(row.splits)


def _say(row: DatasetRow, verdict: SplitVerdict) -> None:
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


def _published(row: DatasetRow) -> dict[str, Any]:
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
