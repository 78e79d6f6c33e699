"""What the recipes for small data do on a folder: k-NN of the untrained and of the trained network, seed by seed.

Run: python tests/benchmarks/small_data.py FOLDER --recipe small/300 --seeds 0 1 2 [flags of pretrain]
The folder has train/<class>/ and test/<class>/. Settings are chosen by the first column, every second test picture,
and told by the other half. A seed takes five minutes on a core. What was found stands in trainers/recipes/small.yaml.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import numpy as np
from transformers import set_seed

from synco_hub.data import EvaluationDataset, load_dataset
from synco_hub.data.subsets import ImageSubset
from synco_hub.evaluation.knn import evaluate_knn
from synco_hub.evaluation.measurement import EvaluatedModel
from synco_hub.hub.loading import load_model
from synco_hub.models import SynCoModel, image_processor
from synco_hub.settings import KnnSettings
from trainers.pretraining_model import SynCoForPreTraining
from trainers.pretraining_run import build_config, pretrain
from trainers.recipe import parse

HALVES = ("chosen by", "told by")


def measure(network: SynCoModel, folder: str) -> tuple[float, ...]:
    """k-NN top-1 (k = 10) in percent on both halves of the test pictures."""
    model = EvaluatedModel(network, image_processor(network.config.image_size or 224), "small data")
    train, test = (load_dataset(folder, split, image_size=network.config.image_size) for split in ("train", "test"))
    bank = EvaluationDataset(train, model.transform)
    settings = KnnSettings(k=(10,), num_workers=0, progress=False)
    accuracies = []
    for half in range(2):
        queries = EvaluationDataset(ImageSubset(test, np.arange(half, len(test), 2), "every second"), model.transform)
        accuracies.append(evaluate_knn(model, bank, queries, settings).metrics["top1_k10"])
    return tuple(accuracies)


def compare(folder: str, recipe: str, seed: int, flags: list[str]) -> list[tuple[float, ...]]:
    """Both halves before and after one run."""
    with tempfile.TemporaryDirectory() as directory:
        given = [f"--recipe={recipe}", f"--dataset={folder}", f"--seed={seed}", f"--output-dir={directory}/run"]
        run = parse([*given, "--save-strategy=no", *flags])
        set_seed(seed)
        before = measure(SynCoForPreTraining(build_config(run.backbone, run.settings)).synco, folder)
        pretrain(run)
        return [before, measure(load_model(str(Path(directory) / "run"))[0], folder)]


def main() -> None:
    """One line for each seed, then the means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options, flags = parser.parse_known_args()
    found = []
    for seed in options.seeds:
        found.append(compare(options.folder, options.recipe, seed, flags))
        print(_line(f"seed {seed}", found[-1]), flush=True)
    means = [tuple(statistics.mean(column) for column in zip(*side, strict=True)) for side in zip(*found, strict=True)]
    print(_line("mean", means))


def _line(name: str, sides: list[tuple[float, ...]]) -> str:
    before, after = sides
    halves = zip(HALVES, before, after, strict=True)
    return f"{name}: " + "; ".join(f"{half} {old:.1f} → {new:.1f} %" for half, old, new in halves)


if __name__ == "__main__":
    main()
