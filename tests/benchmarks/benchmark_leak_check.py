"""What fingerprints of pretraining images cost: in a worker that makes two views, and in `evaluate`.

    python tests/benchmarks/benchmark_leak_check.py

Pictures are noise with the spectrum of photographs, 500 × 375 pixels as ImageNet's mean, as JPEG. Writes
tests/benchmarks/results/leak_check_cpu.json.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from interleaved import RESULTS, Finding, interleaved_seconds, median_ratio, write_report

sys.path.insert(0, str(Path(__file__).parents[1]))
from photographs import photograph, save

from synco_hub.data import TwoViewDataset, load_dataset
from synco_hub.data.pretraining_images import FingerprintRecorder, PretrainingData, PretrainingImages
from synco_hub.data.views.transform import make_two_view_transform
from synco_hub.evaluation.leaks import find_leak
from synco_hub.settings import DatasetChoice

IMAGES, TESTS, KEPT = 32, 24, 1_281_167


def _time_views(root: Path, folder: Path) -> tuple[float, float, int]:
    """Seconds of the views of an image, the share that a fingerprint adds, bytes of one."""
    choice = DatasetChoice(str(root))
    images = load_dataset(choice, "pretraining")
    plain, noted = (TwoViewDataset(images, make_two_view_transform("worker", 224)) for _ in range(2))
    noted.recorder = FingerprintRecorder(folder)
    noted.recorder.begin(PretrainingData.of(images, choice, None, None, False), False)
    calls = {
        name: lambda views=views: [views[0, index] for index in range(len(images))]
        for name, views in (("plain", plain), ("noted", noted))
    }
    times = interleaved_seconds(calls, rounds=5)
    noted.recorder.finish(None)
    kept = PretrainingImages.read(folder)
    assert kept is not None
    stored = (kept.hashes.nbytes + kept.tiny.nbytes) // len(kept)
    return float(np.median(times["plain"])) / len(images), median_ratio(times["noted"], times["plain"]) - 1, stored


def main() -> None:
    """Measure, write the JSON whole, print what was found."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "images"
        for number in range(IMAGES):
            save(root, f"train/a/{number}.jpg", photograph(number, 375, 500), quality=90)
        for number in range(TESTS):
            save(
                root, f"test/a/{number}.jpg", photograph(number if number < 8 else 1000 + number, 375, 500), quality=90
            )
        run = Path(place) / "run"
        run.mkdir()
        views, share, stored = _time_views(root, run)
        kept = PretrainingImages.read(run)
        assert kept is not None
        test = load_dataset(str(root), "test")
        start = time.process_time()
        leak = find_leak(test, kept, progress=False)
        small = time.process_time() - start
        many = PretrainingImages(
            replace(kept.data, streamed=True),  # not at hand
            np.arange(KEPT),
            np.random.default_rng(0).integers(0, 2**63, KEPT).astype(np.uint64),
            np.random.default_rng(1).integers(0, 256, (KEPT, kept.tiny.shape[1]), dtype=np.uint8),
        )
        start = time.process_time()
        find_leak(test, many, progress=False)
        large = time.process_time() - start
    findings = [
        Finding("two views of an image in a worker", 1e3 * views, "ms"),
        Finding("what a fingerprint adds to that in the first epoch", 100 * share, "%"),
        Finding("the same over 100 epochs", share, "%", "≤ 1"),
        Finding(f"file for {KEPT:,} images", stored * KEPT / 1e6, "MB", "≤ 60"),
        Finding(f"leak check of a test image against {len(kept)} images", 1e3 * small / TESTS, "ms"),
        Finding(f"leak check of a test image against {KEPT:,} images", 1e3 * large / TESTS, "ms"),
    ]
    rows = [{"exact": leak.exact, "near": leak.near}]
    settings = {"images": IMAGES, "test_images": TESTS}
    write_report(RESULTS / "leak_check_cpu.json", "Leak check", settings, rows, findings, "cpu")


if __name__ == "__main__":
    main()
