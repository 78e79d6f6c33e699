"""`synco-hub evaluate retrieval`: revisited Oxford and Paris."""

from __future__ import annotations

from pathlib import Path

import typer

from synco_hub.cli.result_report import print_end
from synco_hub.output_paths import check_output_folder, check_result_file


def retrieval(
    model: str = typer.Option(..., help="Short name, checkpoint directory, Hub id, or timm:<name>."),
    data_dir: Path = typer.Option(..., help="Folder with roxford5k/ or rparis6k/: gnd_<name>.pkl and jpg/."),
    dataset: str = typer.Option("roxford5k", help="roxford5k or rparis6k."),
    output: Path = typer.Option(Path("retrieval.json"), help="Where to write the result."),
    max_side: int = typer.Option(1024, help="Longest side of an image in pixels; 1024 keeps the benchmark's files."),
    scale: list[float] = typer.Option([], help="Factor of one scale; repeat. Default: 1, 1/√2, 1/2."),
    crop_queries: bool = typer.Option(True, help="See only the query's box, as the official protocol does."),
    save_features: Path | None = typer.Option(None, help="Folder to keep features in; a killed run continues there."),
    num_workers: int = typer.Option(2, help="Processes that decode images."),
    device: str | None = typer.Option(None, help="cpu, cuda, …; default: the best there is."),
) -> None:
    """Mean average precision of ranking a database by similarity to each query (easy, medium, hard).

    Example: synco-hub evaluate retrieval --model synco-v2-deit-s --data-dir data --dataset roxford5k --save-features f
    """
    check_result_file(output)
    if save_features is not None:
        check_output_folder(save_features, "--save-features")
    # torch takes seconds to import: only when the command runs, never for --help.
    from synco_hub.cli.evaluation_inputs import best_device
    from synco_hub.data.revisited_retrieval import load_retrieval_data
    from synco_hub.evaluation.dense.retrieval_features import RetrievalInput
    from synco_hub.evaluation.retrieval import evaluate_retrieval
    from synco_hub.features import ExtractionSettings
    from synco_hub.hub.loading import load_model

    data = load_retrieval_data(data_dir, dataset)
    network, processor = load_model(model)
    form = RetrievalInput(
        max_side,
        tuple(scale) or RetrievalInput.scales,
        crop_queries,
        tuple(processor.image_mean),
        tuple(processor.image_std),
    )
    settings = ExtractionSettings(1, num_workers, best_device(device))
    result = evaluate_retrieval(network, data, form, settings, model, save_features)
    result.save(output)
    print(f"{data.name}: {result.dataset.description}")
    for name, value in result.metrics.items():
        print(f"  {name:<12} {value:6.2f} %")
    print_end(result, output)
