"""`synco-hub evaluate robustness`: a classifier on shifted and corrupted images (Table 13)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from synco_hub.cli.result_report import print_end
from synco_hub.output_paths import check_result_file

if TYPE_CHECKING:
    from collections.abc import Mapping

    from synco_hub.data import EvaluationTransform
    from synco_hub.evaluation.robustness import RobustnessFacts
    from synco_hub.evaluation.shifts.accuracy_cell import AccuracyCell
    from synco_hub.evaluation.shifts.robustness_sets import PlannedCell


def robustness(
    model: str = typer.Option(..., help="Output folder of linear-probe or fine-tune, or a classifier on the Hub."),
    data_dir: Path | None = typer.Option(None, help="Folder that holds the unpacked archives of the sets."),
    sets: str | None = typer.Option(
        None,
        help="imagenet, imagenet-v2-mf, imagenet-v2-t0.7, imagenet-v2-ti, imagenet-c, imagenet-a, imagenet-w, "
        "imagenet-sketch, imagenet-r: some with commas between, or all. Default: those that lie in --data-dir.",
    ),
    on_the_fly: bool = typer.Option(False, help="Corrupt the test images of --dataset instead; not ImageNet-C."),
    dataset: str = typer.Option("fractals", help="With --on-the-fly: fractals, a folder of images, or a Hub id."),
    num_images: int | None = typer.Option(None, help="With --on-the-fly: this many images, drawn by --seed."),
    corruptions: str | None = typer.Option(None, help="Only these corruptions, with commas between; no mean then."),
    output: Path = typer.Option(Path("robustness.json"), help="Where to write; finished cells are kept."),
    batch_size: int = typer.Option(128, help="Images per forward."),
    num_workers: int = typer.Option(0, help="Processes that decode and corrupt images."),
    device: str | None = typer.Option(None, help="cpu, cuda, …; default: the best there is."),
    seed: int = typer.Option(0, help="Seed of corruptions and of the drawn images."),
    split_seed: int = typer.Option(0, help="Seed of the 80/20 split of a folder without test images."),
    max_bad_fraction: float = typer.Option(0.01, help="Share of images that may be unreadable."),
) -> None:
    """Accuracy on ImageNet-V2, -C (mean and mCE), -A, -R (of 200 and of 1000 classes), -W and -Sketch (paper 8.2).

    The classifier must have been trained on clean ImageNet. Started again it goes on after the last finished cell.

    Example: synco-hub evaluate robustness --model runs/probe --on-the-fly --dataset fractals --num-images 200
    """
    check_result_file(output)
    # torch takes seconds to import: only when the command runs, never for --help.
    from synco_hub.cli.evaluation_inputs import best_device
    from synco_hub.data import EvaluationTransform
    from synco_hub.evaluation.robustness import RobustnessRun
    from synco_hub.features import ExtractionSettings
    from synco_hub.hub.classifier import load_classifier

    names = None if corruptions is None else [name.strip() for name in corruptions.split(",") if name.strip()]
    if on_the_fly and (sets is not None or data_dir is not None):
        raise ValueError("--on-the-fly corrupts the images of --dataset: leave --sets and --data-dir out.")
    if not on_the_fly and num_images is not None:
        raise ValueError("--num-images goes with --on-the-fly: the published sets are measured whole.")
    classifier, processor, classes = load_classifier(model)
    if on_the_fly:
        plan, facts = _drawn(dataset, processor, (num_images, seed, split_seed), names)
    else:
        plan, facts = _published(sets, data_dir, EvaluationTransform.from_image_processor(processor), names)
    settings = ExtractionSettings(batch_size, num_workers, best_device(device), max_bad_fraction=max_bad_fraction)
    run = RobustnessRun(classifier, classes, model, plan, facts, settings)
    if taken := run.take_finished(output):
        print(f"{taken} of {len(plan)} cells are in {output} already")
    for result in run.results():
        result.save(output)
    _print(result.metrics, run.cells)
    print_end(result, output)


def _published(
    sets: str | None, data_dir: Path | None, transform: EvaluationTransform, corruptions: list[str] | None
) -> tuple[list[PlannedCell], RobustnessFacts]:
    from synco_hub.evaluation.robustness import RobustnessFacts
    from synco_hub.evaluation.shifts.robustness_sets import chosen_sets, planned_cells

    if data_dir is not None and not data_dir.is_dir():
        raise FileNotFoundError(f"--data-dir {data_dir}: no such folder; give the one that holds the sets.")
    if data_dir is None and sets is None:
        raise ValueError("--data-dir is missing: give the folder that holds the sets, or --sets to read Hub copies.")
    plan, absent = [], []
    for name in chosen_sets(sets or "all"):
        try:
            plan += planned_cells(name, data_dir, transform, corruptions)
        except (FileNotFoundError, ImportError) as error:
            if sets is not None:
                raise
            absent.append(name)
            print(f"left out: {error}")
    if not plan:
        raise FileNotFoundError(
            f"none of the sets is in {data_dir}: it should hold imagenet-a/, imagenet-c/ or others"
        )
    notes = (f"not measured: {', '.join(absent)}",) if absent else ()
    steps: dict[str, Any] = {"steps": repr(transform), "imagenet_c": f"centre crop {transform.image_size} only"}
    steps |= {"mean": list(transform.mean), "std": list(transform.std)}
    where = "copies on the Hub" if data_dir is None else str(data_dir.resolve())
    facts = RobustnessFacts("robustness", "ImageNet variants", where, steps, None, notes, bool(absent or corruptions))
    return plan, facts


def _drawn(
    dataset: str, processor: object, draw: tuple[int | None, int, int], corruptions: list[str] | None
) -> tuple[list[PlannedCell], RobustnessFacts]:
    from synco_hub.cli.evaluation_inputs import DataChoice, evaluation_split
    from synco_hub.data.corruptions.corruptions import LABEL, SMALLEST_SIDE, require_package
    from synco_hub.evaluation.measurement.image_sample import sampled_images
    from synco_hub.evaluation.measurement.measured_split import preprocessing
    from synco_hub.evaluation.robustness import RobustnessFacts
    from synco_hub.evaluation.shifts.robustness_sets import planned_corruptions

    num_images, seed, split_seed = draw
    require_package()
    whole = evaluation_split(DataChoice(dataset, split_seed=split_seed), "test", processor)
    if whole.transform.image_size < SMALLEST_SIDE:
        raise ValueError(
            f"a model of {whole.transform.image_size} pixels: corruptions need {SMALLEST_SIDE}; use another model"
        )
    images, subset = sampled_images(whole.images, num_images, seed)
    plan = planned_corruptions(images, whole.transform, seed, corruptions)
    about = images.description
    description = f"{about.source}; {about.split_rule}; fingerprint {about.fingerprint}"
    partial = subset is not None or corruptions is not None
    facts = RobustnessFacts(
        *("robustness_on_the_fly", about.name, description, preprocessing(whole), seed, (LABEL,), partial),
        data_fingerprint=about.fingerprint,
    )
    return plan, facts


def _print(metrics: Mapping[str, float], cells: Mapping[str, AccuracyCell]) -> None:
    from synco_hub.data.catalog.robustness import BENCHMARK_CORRUPTIONS
    from synco_hub.evaluation.shifts.robustness_metrics import severity_table

    for family in ("imagenet_c", "corrupted"):
        if table := severity_table(family, cells):
            print(f"  {family:<18} severity" + "".join(f"{severity:>8}" for severity in range(1, 6)))
            for name, row in table.items():
                print(f"  {name:<26}" + "".join("       -" if value is None else f"{value:8.2f}" for value in row))
    for name, value in metrics.items():
        if not any(f"_{corruption}_" in name for corruption in BENCHMARK_CORRUPTIONS):
            print(f"  {name:<32} {value:7.2f} %")
