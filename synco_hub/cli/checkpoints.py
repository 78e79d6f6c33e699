"""`synco-hub convert`, `average`, `export`, `pull`, `publish` and `publish-space`: checkpoints come, change and go."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from synco_hub.averaging import AVERAGE_FILE, FIGURE_FILE, KEPT, NEW, format_average, recall_domains
from synco_hub.averaging import average as average_checkpoints
from synco_hub.cli.options import (
    AverageOptions,
    ConvertOptions,
    ExportOptions,
    PublishOptions,
    PublishSpaceOptions,
    PullOptions,
)
from synco_hub.features import choose_device
from synco_hub.hub.conversion.configuration import Choices
from synco_hub.hub.conversion.convert import ConversionSettings
from synco_hub.hub.conversion.convert import convert as convert_checkpoint
from synco_hub.hub.export.export import export as export_checkpoint
from synco_hub.hub.publication.publish import publish as send
from synco_hub.hub.publication.publish import upload_plan
from synco_hub.hub.publication.space import stage_space
from synco_hub.hub.pull import pull as pull_checkpoint
from synco_hub.settings import DatasetChoice, ForwardSettings, KnnSettings
from synco_hub.zoo import find_given_directory


def convert(options: ConvertOptions) -> None:
    """`synco-hub convert`."""
    print(f"reading {options.source}")
    choices = Choices(options.backbone, options.num_heads, options.image_size)
    settings = ConversionSettings(
        options.layout,
        options.branch,
        options.whole_pretraining_state,
        options.head,
        choices,
        options.preprocessing,
        options.revision,
    )
    for line in convert_checkpoint(options.source, options.output, settings).lines():
        print(line)
    how = f"load it by AutoModel.from_pretrained({str(options.output)!r}); report: conversion_report.json"
    print(f"wrote {options.output} ({how})")


def average(options: AverageOptions, forward: ForwardSettings) -> None:
    """`synco-hub average`."""
    domains = recall_domains(options.end)
    if options.dataset is not None:
        domains[NEW] = DatasetChoice(options.dataset, options.data_dir, split_seed=options.split_seed)
    if options.keep_dataset is not None:
        domains[KEPT] = DatasetChoice(options.keep_dataset, options.keep_data_dir, split_seed=options.split_seed)
    for name, flag in ((NEW, "--dataset"), (KEPT, "--keep-dataset")):
        if name not in domains:
            raise ValueError(
                f"{options.end} does not say which its {name} domain is: give {flag}, images with classes."
            )
    settings = KnnSettings(**{**vars(forward), "device": forward.device or choose_device()})
    domains = {name: domains[name] for name in (NEW, KEPT)}
    report = average_checkpoints(options.start, options.end, options.output, domains, options.num_images, settings)
    print(format_average(report))
    print(f"wrote {options.output} (the recommended weights, {AVERAGE_FILE}, {FIGURE_FILE}, a card)")


def export(options: ExportOptions) -> None:
    """`synco-hub export`."""
    print(f"exporting {options.model} to {options.format}")
    report = export_checkpoint(options.model, options.output, options.format)
    print(f"largest difference of the outputs on a fixed input: {report.difference:.1e}")
    if report.note:
        print(f"note: {report.note}")
    print(f"wrote {options.output}; load it by:\n{report.how_to_load}")


def pull(options: PullOptions) -> None:
    """`synco-hub pull`."""
    pulled = pull_checkpoint(options.name, options.repo, options.revision)
    print(f"installed {pulled.name} ({pulled.num_bytes / 1e6:.1f} MB) from {pulled.repo_id} at {pulled.commit}")
    print(f"  in {pulled.directory}; pin it with --revision {pulled.commit}")
    print(f'  AutoModel.from_pretrained("{pulled.name}") after `import synco_hub`')


def publish(options: PublishOptions) -> None:
    """`synco-hub publish`."""
    plan = upload_plan(find_given_directory(options.directory), options.repo_id)
    _show_files(plan.sizes, f"{'private ' if options.private else ''}{options.repo_id}")
    if plan.left:
        print(f"stays here: {', '.join(plan.left)}")
    if plan.shortened:
        print(f"paths of this computer are sent as their last part: {', '.join(plan.shortened)}")
    if options.dry_run:
        print("dry run: nothing was sent")
        return
    _confirm(options.repo_id, options.yes)
    published = send(plan, options.repo_id, options.private)
    if published.removed:
        print(f"gone from the new revision: {', '.join(published.removed)}")
    print(f"published {published.repo_id} at {published.commit}\n{published.url}")


def publish_space(options: PublishSpaceOptions) -> None:
    """`synco-hub publish-space`."""
    repo_id, output = options.repo_id, options.output
    if repo_id is None and not (options.dry_run and output is not None):
        raise ValueError("give --repo-id ORGANISATION/NAME to publish, or --dry-run --output DIR to stage only.")
    with tempfile.TemporaryDirectory(prefix="synco-space-") as temporary:
        plan = stage_space(output or Path(temporary) / "space")
        _show_files(plan.sizes, f"the Space {repo_id}" if repo_id else str(output))
        if options.dry_run or repo_id is None:
            where = f"; staged in {output}: `pip install -r requirements.txt`, then `python app.py`" if output else ""
            print(f"dry run: nothing was sent{where}")
            return
        _confirm(repo_id, options.yes)
        published = send(plan, repo_id, options.private, kind="space")
    print(f"published the Space {published.repo_id} at {published.commit}\n{published.url}")
    print("name the checkpoints it offers in its variable SYNCO_SPACE_MODELS (Hub ids separated by commas)")


def _show_files(sizes: Mapping[str, int], target: str) -> None:
    print(f"to {target}, in one commit:")
    for path, size in sizes.items():
        print(f"  {size:>12,}  {path}")
    print(f"  {sum(sizes.values()):>12,}  bytes in {len(sizes)} files")


def _confirm(repo_id: str, yes: bool) -> None:
    """Ask, unless that was answered beforehand."""
    if yes:
        return
    try:
        answer = input(f"Publish to {repo_id}? [y/N]: ")
    except EOFError:
        raise ValueError("nobody answered whether to publish: add --yes to go on without asking.") from None
    if answer.strip().lower() not in ("y", "yes"):
        raise ValueError("not published: the answer was no.")
