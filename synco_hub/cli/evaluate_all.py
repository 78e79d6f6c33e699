"""`synco-hub evaluate all`: the protocols that need no training, on every data set, as far as model and data allow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from synco_hub.cli.evaluation_inputs import DataChoice, classification_of_model
from synco_hub.cli.knn_evaluation import knn_of_model
from synco_hub.cli.published_sets import run_published
from synco_hub.features import ExtractionSettings
from synco_hub.results import EvaluationResult
from synco_hub.results_table import comparison, to_markdown


def _knn(model: str, choice: DataChoice, settings: ExtractionSettings) -> EvaluationResult:
    return knn_of_model(model, choice, None, settings)


PROTOCOLS: dict[str, Callable[[str, DataChoice, ExtractionSettings], EvaluationResult]] = {
    "knn": _knn,
    "classification": classification_of_model,
}


def run_all(
    model: str,
    datasets: Sequence[str],
    output_dir: Path,
    settings: ExtractionSettings,
    split_seed: int = 0,
    data_dir: Path | None = None,
) -> str:
    """Measure everything that can be measured; what cannot be is said and passed over.

    Args:
        model: Name of the model.
        datasets: Names of the data sets.
        output_dir: Where results go: `<data set>/<protocol>.json`.
        settings: How images go through the network.
        split_seed: Seed of drawn splits.
        data_dir: Folder of published archives for the protocols of `synco_hub.cli.published_sets`.

    Returns:
        The comparison as Markdown.

    Raises:
        ValueError: If nothing could be measured, with the reasons.
    """
    results, reasons = [], []
    for dataset in datasets:
        for protocol, measure in PROTOCOLS.items():
            try:
                result = measure(model, DataChoice(dataset, split_seed=split_seed), settings)
            except (ValueError, OSError) as error:  # a data set that is missing or cannot be reached
                reasons.append(f"{protocol} on {dataset}: {error}")
                print(f"skipped {reasons[-1]}")
                continue
            # A data set is a path or has settings: neither may lead out of the output folder.
            folder = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in dataset.strip("./"))
            result.save(output_dir / folder / f"{protocol}.json")
            results.append(result)
    if data_dir is not None:
        published, missing = run_published(model, data_dir, output_dir, str(settings.device or "cpu"))
        results += published
        reasons += missing
        for reason in missing:
            print(f"skipped {reason}")
    if not results:
        raise ValueError(f"nothing could be measured: {'; '.join(reasons)}")
    return to_markdown(comparison(results))
