"""`synco-hub evaluate <protocol>`: one command for each protocol of the paper."""

from __future__ import annotations

from pathlib import Path

import typer

from synco_hub.cli.efficiency import efficiency

evaluate = typer.Typer(no_args_is_help=True, help="Measure a frozen model by one of the paper's protocols.")
evaluate.command("efficiency")(efficiency)


@evaluate.command("knn")
def knn(
    model: str = typer.Option(..., help="Zoo or installed short name, checkpoint directory, or Hub id."),
    dataset: str = typer.Option("fractals", help="fractals, a folder of images, or a data set id on the Hub."),
    output: Path = typer.Option(Path("results.json"), help="Where to write the result."),
    k: list[int] = typer.Option(None, help="Neighbours; repeat for several. Default: 10, 20, 100, 200."),
    data_dir: str | None = typer.Option(None, help="Folder of the data set's original files."),
    image_column: str | None = typer.Option(None, help="Column of the images, where it is not obvious."),
    label_column: str | None = typer.Option(None, help="Column of the labels, where it is not obvious."),
    batch_size: int = typer.Option(128, help="Images per forward."),
    num_workers: int = typer.Option(2, help="Processes that decode images."),
    device: str | None = typer.Option(None, help="cpu, cuda, …; default: the best there is."),
    split_seed: int = typer.Option(0, help="Seed of the 80/20 split of a folder without test images."),
    max_bad_fraction: float = typer.Option(0.01, help="Share of images that may be unreadable."),
) -> None:
    """Weighted k-nearest-neighbour accuracy of frozen features (paper 8.1; the protocol of DINO).

    Example: synco-hub evaluate knn --model synco-v2-vit-nano --dataset fractals --output results.json
    """
    # torch takes seconds to import: only when the command runs, never for --help.
    from synco_hub.cli.evaluation_inputs import DataChoice, best_device, evaluation_split
    from synco_hub.evaluation import evaluate_knn
    from synco_hub.features import ExtractionSettings
    from synco_hub.hub.loading import load_model

    network, processor = load_model(model)
    choice = DataChoice(dataset, data_dir, image_column, label_column, split_seed)
    train, test = (evaluation_split(choice, split, processor) for split in ("train", "test"))
    settings = ExtractionSettings(batch_size, num_workers, best_device(device), max_bad_fraction=max_bad_fraction)
    result = evaluate_knn(network, train, test, ks=k or None, settings=settings, model_name=model)
    result.save(output)
    print(f"{result.dataset.count} test images of {result.dataset.name}: {result.dataset.description}")
    for name, value in result.metrics.items():
        print(f"  {name:<12} {value:6.2f} %")
    if result.skipped_files:
        print(f"  skipped {len(result.skipped_files)} unreadable files: {', '.join(result.skipped_files[:10])}")
    print(f"wrote {output}")
