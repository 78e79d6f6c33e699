"""What `synco-hub embed` costs beside the forward pass, and whether its memory grows with the number of images.

Run: OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 python tests/benchmarks/benchmark_embedding.py
Takes about five minutes on a CPU; writes tests/benchmarks/results/embedding_cpu.json. Pictures of 256 pixels, drawn
here, saved as JPEG and read, resized and cropped by the same code in the forward pass's turn, so that what is compared
is what the table costs. The processor time of one process; memory is the peak of a process of its own.
Expected: the table is next to nothing beside DeiT-S, and 16 times the images need no more memory.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from interleaved import RESULTS, Finding, interleaved_seconds, median_ratio, write_report
from PIL import Image

from synco_hub import embed
from synco_hub.evaluation.measurement import EvaluatedModel, open_split
from synco_hub.features import extract_features
from synco_hub.models import SynCoConfig, SynCoModel, image_processor
from synco_hub.settings import DatasetChoice, ExtractionSettings

IMAGES, ROUNDS = 64, 5
FEW, MANY = 500, 8000
SETTINGS = {"batch_size": 32, "num_workers": 0, "device": "cpu", "progress": False}


def draw_pictures(folder: Path, count: int, side: int) -> None:
    """Smooth noise, so that a JPEG of it is as long as a photograph's."""
    generator = np.random.default_rng(0)
    folder.mkdir()
    for index in range(count):
        small = generator.integers(0, 255, (side // 8, side // 8, 3), dtype=np.uint8)
        Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{index:05}.jpg")


def peak_memory(model: Path, pictures: Path) -> float:
    """MiB that a process which embeds a folder takes at most."""
    ended = subprocess.run(
        [sys.executable, __file__, "--memory-of", str(model), str(pictures)],
        check=True,
        capture_output=True,
        text=True,
    )
    return float(ended.stdout.split()[-1])


def main() -> None:
    """Measure, write the JSON whole, print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS / "embedding_cpu.json")
    parser.add_argument("--memory-of", type=Path, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if options.memory_of:
            model, pictures = options.memory_of
            embed(model, pictures, folder / "table.parquet", **SETTINGS)
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
            return
        for name, side in ("deit-s", 224), ("vit-nano", 32):
            torch.manual_seed(0)
            SynCoModel(SynCoConfig(name)).save_pretrained(folder / name)
            image_processor(side).save_pretrained(folder / name)
        draw_pictures(folder / "pictures", IMAGES, 256)
        for count in FEW, MANY:
            draw_pictures(folder / f"of {count}", count, 48)
        network = EvaluatedModel(SynCoModel.from_pretrained(folder / "deit-s").eval(), image_processor(224), "deit-s")
        images = open_split(DatasetChoice(str(folder / "pictures")), "all", network)
        numbers = itertools.count()
        times = interleaved_seconds(
            {
                "forward": lambda: extract_features(network.network, images, ExtractionSettings(**SETTINGS)),
                "embed": lambda: embed(
                    folder / "deit-s", folder / "pictures", folder / f"{next(numbers)}.parquet", **SETTINGS
                ),
            },
            ROUNDS,
        )
        memory = {count: peak_memory(folder / "vit-nano", folder / f"of {count}") for count in (FEW, MANY)}
    row = {"median_s": {name: statistics.median(found) for name, found in times.items()}, "peak_MiB": memory}
    findings = [
        Finding(
            f"deit-s, {IMAGES} images: embed over reading and forward pass",
            median_ratio(times["embed"], times["forward"]),
            "×",
            "≤ 1.05",
        ),
        Finding(f"peak memory, {MANY:,} images over {FEW:,}", memory[MANY] / memory[FEW], "×", "≤ 1.05"),
    ]
    write_report(options.output, "Embedding", {"images": IMAGES, "rounds": ROUNDS}, [row], findings, "cpu")


if __name__ == "__main__":
    main()
