"""`synco-hub evaluate adversarial`: the accuracy that is left under the seven attacks of Table 14."""

from __future__ import annotations

from pathlib import Path

import typer

from synco_hub.cli.result_report import print_end
from synco_hub.output_paths import check_output_folder, check_result_file

NULL_EXIT_CODE = 3


def adversarial(
    model: str = typer.Option(..., help="Output folder of linear-probe or fine-tune, or a classifier on the Hub."),
    dataset: str = typer.Option("fractals", help="fractals, a folder of images, or a data set id on the Hub."),
    output: Path = typer.Option(Path("adversarial.json"), help="Where to write; finished batches are kept beside it."),
    attacks: str = typer.Option(
        "all", help="fgsm, pgd, cw, square, autoattack, tifgsm, one_pixel: some with commas between, or all."
    ),
    num_images: int | None = typer.Option(None, help="Attack this many test images, drawn by --seed; default: all."),
    epsilon: str | None = typer.Option(None, help="Another ℓ∞ bound than 8/255, such as 4/255, where there is one."),
    data_dir: str | None = typer.Option(None, help="Folder of the data set's original files."),
    batch_size: int = typer.Option(50, help="Images per batch; another one draws other random numbers."),
    num_workers: int = typer.Option(0, help="Processes that decode images."),
    device: str | None = typer.Option(None, help="cpu, cuda, …; default: the best there is."),
    seed: int = typer.Option(0, help="Seed of the attacks and of the drawn images."),
    split_seed: int = typer.Option(0, help="Seed of the 80/20 split of a folder without test images."),
    max_bad_fraction: float = typer.Option(0.01, help="Share of images that may be unreadable."),
) -> None:
    """Top-1 accuracy under FGSM, PGD, C&W, Square, AutoAttack, TIFGSM and OnePixel (paper 8.3, torchattacks).

    Started again after an interruption it goes on where it was. Exit code 3: an attack left every input as it was.

    Example: synco-hub evaluate adversarial --model runs/probe --dataset fractals --num-images 100
    """
    batches = output.with_name(f"{output.stem}.batches")
    check_result_file(output)
    check_output_folder(batches, "--output")
    # torch takes seconds to import: only when the command runs, never for --help.
    from synco_hub.cli.evaluation_inputs import DataChoice, best_device, evaluation_split
    from synco_hub.data import EvaluationDataset
    from synco_hub.evaluation.adversarial import AdversarialRun, AttackedModel
    from synco_hub.evaluation.attacks.attack_settings import chosen_attacks
    from synco_hub.evaluation.attacks.attacks import require_library
    from synco_hub.evaluation.measurement.image_sample import sampled_images
    from synco_hub.features import ExtractionSettings
    from synco_hub.hub.classifier import load_classifier

    chosen = chosen_attacks(attacks, None if epsilon is None else fraction(epsilon))
    require_library()
    classifier, processor, names = load_classifier(model)
    whole = evaluation_split(DataChoice(dataset, data_dir, split_seed=split_seed), "test", processor)
    images, subset = sampled_images(whole.images, num_images, seed)
    run = AdversarialRun(
        AttackedModel(classifier, names, model),
        EvaluationDataset(images, whole.transform),
        chosen,
        batches,
        ExtractionSettings(batch_size, num_workers, best_device(device), max_bad_fraction=max_bad_fraction),
        seed,
        subset,
    )
    for result in run.results():
        result.save(output)
        for name in [name for name in result.metrics if name.startswith("top1_")][-1:]:
            print(f"  {name:<16} {result.metrics[name]:6.2f} %")
    print_end(result, output)
    if nulls := run.null_attacks():
        typer.echo(f"error: {', '.join(nulls)} left every input as it was: no measurement of robustness", err=True)
        raise typer.Exit(NULL_EXIT_CODE)


def fraction(text: str) -> float:
    """Read a number or a fraction of two.

    Raises:
        ValueError: If the text is neither.
    """
    above, _, below = text.partition("/")
    try:
        return float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"{text!r} is neither a number nor a fraction: write for example 8/255 or 0.03") from None
