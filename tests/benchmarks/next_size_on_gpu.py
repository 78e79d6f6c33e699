"""The next size of the zoo on one card: DeiT-T at 64 pixels, patch 8, by three methods, on three kinds of pictures.

    python tests/benchmarks/next_size_on_gpu.py --fashion-mnist FOLDER --pictures FOLDER --output DIR
    python tests/benchmarks/next_size_on_gpu.py --fashion-mnist FOLDER --pictures FOLDER --output DIR --dry-run

The folders hold the idx files of Fashion-MNIST (Debian's dataset-fashion-mnist) and any pictures, such as clip art;
fractals are drawn, and each kind is a third of what is seen. A round is one seed of every method; another begins only
if one as long as the longest still fits into --minutes, so that pairs are whole. DIR then holds a checkpoint in
bfloat16 for each run (11 MB) with card and k-NN on the test images of Fashion-MNIST and fractals, and next_size.json
with the card's name. What lies there is not trained again. `--dry-run` does the same with a vit-nano in four steps on
the CPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from interleaved import machine
from PIL import Image
from torch.utils.data import Dataset
from transformers import set_seed

from synco_hub import SynCoConfig, evaluate
from synco_hub.atomic_write import atomic_write
from synco_hub.data import ImageDataset, load_dataset
from synco_hub.hub.card.model_card import write_card
from synco_hub.models import image_processor
from synco_hub.results import EvaluationResult
from synco_hub.settings import DatasetChoice
from trainers import SynCoForPreTraining, SynCoTrainer, SynCoTrainingArguments
from trainers.settings import PretrainingSettings

METHODS = ("moby", "byol", "synco-v2")


@dataclass(frozen=True)
class Sizes:
    """How large everything is: the card's runs, or the dry one's."""

    backbone: str
    image_size: int
    patch_size: int
    steps: int
    batch: int
    queue: int
    hard: int
    fractals: str
    workers: int
    on_card: bool


CARD = Sizes("deit-t", 64, 8, 3000, 512, 16384, 256, "fractals:image_size=64,train_images_per_class=2000", 14, True)
DRY = Sizes(
    "vit-nano", 32, 8, 4, 8, 32, 4, "fractals:num_classes=2,train_images_per_class=8,test_images_per_class=4", 0, False
)


class Mixed(Dataset[Image.Image]):
    """Images of several sets in turn, so that each is seen as often, however many it has."""

    def __init__(self, sets: list[ImageDataset]) -> None:
        self.sets = sets

    def __len__(self) -> int:
        return len(self.sets) * max(len(each) for each in self.sets)

    def __getitem__(self, index: int) -> Image.Image:
        place, kind = divmod(index, len(self.sets))
        return self.sets[kind].load_image(place % len(self.sets[kind])).convert("RGB")


def train(method: str, seed: int, images: Mixed, sizes: Sizes, directory: Path) -> dict[str, Any]:
    """Pretrain, and save the backbone in bfloat16."""
    kinds = {f"num_{name}": sizes.hard // 2 for name in PretrainingSettings().counts}
    settings = PretrainingSettings(
        method=method, queue_size=sizes.queue, num_hard_negatives=sizes.hard, projection_hidden_dim=1024, **kinds
    )
    set_seed(seed)
    config = SynCoConfig(
        backbone=sizes.backbone,
        image_size=sizes.image_size,
        patch_size=sizes.patch_size,
        pretraining=dataclasses.asdict(settings),
    )
    network = SynCoForPreTraining(config)
    arguments = SynCoTrainingArguments(
        str(directory / "run"),
        max_steps=sizes.steps,
        per_device_train_batch_size=sizes.batch,
        learning_rate=1e-3,
        momentum_start=0.99,
        seed=seed,
        bf16=sizes.on_card,
        use_cpu=not sizes.on_card,
        save_strategy="no",
        dataloader_num_workers=sizes.workers,
        logging_steps=max(sizes.steps // 20, 1),
    )
    trainer = SynCoTrainer(network, arguments, images)
    trainer.train()
    network.synco.to("cpu", torch.bfloat16).save_pretrained(directory)
    image_processor(sizes.image_size).save_pretrained(directory)
    names = ("max_steps", "per_device_train_batch_size", "learning_rate", "momentum_start", "seed", "bf16")
    recorded = {"training": {name: getattr(arguments, name) for name in names}, "pretraining": config.pretraining}
    (directory / "training.json").write_text(json.dumps({**recorded, "seconds": trainer.seconds}, indent=2))
    return recorded


def measure(directory: Path, sizes: Sizes, choices: dict[str, DatasetChoice]) -> list[EvaluationResult]:
    """k-NN of what was saved, on each kind of test images."""
    quiet = {"num_workers": min(sizes.workers, 8), "device": "cuda" if sizes.on_card else "cpu", "progress": False}
    return [
        evaluate("knn", directory, choice, output=directory / f"results_knn_{name}.json", **quiet)
        for name, choice in choices.items()
    ]


def run(method: str, seed: int, images: Mixed, sizes: Sizes, output: Path, choices: dict[str, DatasetChoice]) -> None:
    """One checkpoint with its card, unless it is there."""
    directory = output / f"{method}-{sizes.backbone}-seed{seed}"
    if not (directory / "README.md").is_file():
        recorded = train(method, seed, images, sizes, directory)
        results = measure(directory, sizes, choices)
        config = json.loads((directory / "config.json").read_text())
        write_card(directory, directory.name, config, recorded, results)


def collect(output: Path) -> dict[str, Any]:
    """Every number that lies in the folder, with the machine."""
    runs = {
        directory.name: {
            "seconds": json.loads((directory / "training.json").read_text())["seconds"],
            "megabytes": (directory / "model.safetensors").stat().st_size / 1e6,
            "knn": {file.stem: EvaluationResult.load(file).metrics for file in directory.glob("results_knn_*.json")},
        }
        for directory in sorted(output.iterdir())
        if (directory / "README.md").is_file()
    }
    return {"machine": machine("cuda" if torch.cuda.is_available() else "cpu"), "runs": runs}


def main() -> None:
    """Rounds of all methods until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--fashion-mnist", "--pictures", "--output"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=8.0, help="rounds end within so many")
    parser.add_argument("--seeds", type=int, default=5, help="rounds at most")
    parser.add_argument("--dry-run", action="store_true")
    given = parser.parse_args()
    if not given.dry_run and not torch.cuda.is_available():
        parser.exit(1, "error: there is no CUDA device here: use --dry-run on a CPU\n")
    sizes = DRY if given.dry_run else CARD
    choices = {
        "fashion-mnist": DatasetChoice(str(given.fashion_mnist)),
        "fractals": DatasetChoice(sizes.fractals),
    }
    sources = [*choices.values(), DatasetChoice(str(given.pictures))]
    images = Mixed([load_dataset(choice, "train", image_size=sizes.image_size) for choice in sources])
    logging.getLogger("trainers").setLevel(logging.ERROR)
    given.output.mkdir(parents=True, exist_ok=True)
    began, longest = time.monotonic(), 0.0
    for seed in range(given.seeds):
        start = time.monotonic()
        if start - began + longest > 60 * given.minutes:
            break
        for method in METHODS:
            run(method, seed, images, sizes, given.output, choices)
            print(f"{time.monotonic() - began:6.0f} s  {method}, seed {seed}", flush=True)
        longest = max(longest, time.monotonic() - start)
    with atomic_write(given.output / "next_size.json") as temporary:
        temporary.write_text(json.dumps(collect(given.output), indent=2))
    print(json.dumps(collect(given.output)["runs"], indent=2))


if __name__ == "__main__":
    main()
