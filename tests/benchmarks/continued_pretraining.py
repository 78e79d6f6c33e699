"""Does it pay to go on from weights, and what is forgotten? Paired seeds over pairs of domains; hours on a CPU.

    python tests/benchmarks/continued_pretraining.py --output-dir continued --seeds 5 \
        --pairs fractals:./fashion ./fashion:./clip-art

For every pair OLD:NEW and seed: a network learns OLD; from its weights a run goes on with NEW (with the package's
defaults, and those of --variant NAME='FLAGS'); beside it one learns NEW from scratch with three times the steps. k-NN
(k = 10) on both domains, also of the average that `synco-hub average` recommends. What is done lies in the output
folder and is not done again, so the same command goes on after a stop; the table of paired differences, with Student's
intervals of 95 %, is `continued.md`.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from synco_hub.averaging import AVERAGE_FILE
from synco_hub.cli.demo import SETTINGS
from synco_hub.data import EvaluationDataset, EvaluationTransform, load_dataset
from synco_hub.evaluation.knn import evaluate_knn
from synco_hub.evaluation.measurement import EvaluatedModel
from synco_hub.hub.loading import load_model
from synco_hub.settings import KnnSettings

# Two-sided 95 % of Student's t for 1, 2, … degrees of freedom.
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
METRIC = "top1_k10"


def pretrain(directory: Path, dataset: str, seed: int, steps: int, flags: list[str]) -> Path:
    """A run, unless it is there at its end."""
    if not (directory / "pretraining_summary.json").is_file():
        settings = {name: value for name, value in SETTINGS.items() if name not in ("dataset", "save-strategy")}
        words = [f"--{name}={value}" for name, value in settings.items() if flags == [] or name != "backbone"]
        if "--start-from" in flags:  # a tenth, as the default rate is of the recipe's
            words = [word for word in words if not word.startswith("--learning-rate")]
            flags = ["--learning-rate", f"{float(SETTINGS['learning-rate']) / 10:g}", *flags]
        command = [sys.executable, "-m", "trainers.pretrain", *words, "--dataset", dataset, "--resume"]
        command += ["--output-dir", str(directory), "--seed", str(seed), "--max-steps", str(steps), *flags]
        subprocess.run([*command, "--use-cpu", "--disable-tqdm", "true", "--save-steps", "200"], check=True)
    return directory


def measure(directory: Path, datasets: list[str], images: int) -> dict[str, float]:
    """k-NN top-1 of a run on each domain."""
    file = directory / "domains.json"
    kept: dict[str, float] = json.loads(file.read_text()) if file.is_file() else {}
    for dataset in [each for each in datasets if each not in kept]:
        model, processor = load_model(str(directory))
        transform = EvaluationTransform.from_image_processor(processor)
        bank, queries = (
            EvaluationDataset(load_dataset(dataset, split, image_size=32, max_images=images), transform)
            for split in ("train", "test")
        )
        settings = KnnSettings(k=[10], num_workers=0, progress=False)
        kept[dataset] = evaluate_knn(EvaluatedModel(model, processor, "run"), bank, queries, settings).metrics[METRIC]
        file.write_text(json.dumps(kept))
    return kept


def average(start: Path, end: Path, old: str, new: str, images: int) -> dict[str, Any]:
    """What the recommended average has on the test images of both domains."""
    directory = end.with_name(f"{end.name}-average")
    if not directory.exists():
        words = ["average", str(start), str(end), "--output", str(directory), "--dataset", new]
        words += ["--keep-dataset", old, "--num-images", str(images)]
        subprocess.run([sys.executable, "-m", "synco_hub.cli", *words], check=True)
    values: dict[str, Any] = json.loads((directory / AVERAGE_FILE).read_text())
    return values


def compare(differences: list[float]) -> str:
    """Mean of paired differences with its interval."""
    mean, count = statistics.mean(differences), len(differences)
    if count < 2:
        return f"{mean:+.1f} (one seed)"
    width = STUDENT[min(count - 2, len(STUDENT) - 1)] * statistics.stdev(differences) / math.sqrt(count)
    return f"{mean:+.1f} ± {width:.1f}"


def run_pair(old: str, new: str, options: argparse.Namespace) -> list[str]:
    """All seeds of a pair; the lines of its table."""
    variants = dict([("defaults", ""), *(each.split("=", 1) for each in options.variant)])
    rows: dict[str, list[dict[str, float]]] = {}
    for seed in range(options.seeds):
        place = options.output_dir / f"{Path(old).name}-{Path(new).name}" / f"seed-{seed}"
        start = pretrain(place / "start", old, seed, options.start_steps, [])
        before = measure(start, [old, new], options.images)
        scratch = pretrain(place / "scratch", new, seed, 3 * options.steps, [])
        reached = measure(scratch, [old, new], options.images)
        rows.setdefault("from scratch, three times the steps", []).append(_row(reached, before, reached, old, new))
        for name, flags in variants.items():
            words = ["--start-from", str(start), *flags.split()]
            end = pretrain(place / name, new, seed, options.steps, words)
            after = measure(end, [old, new], options.images)
            rows.setdefault(f"continued, {name}", []).append(_row(after, before, reached, old, new))
            chosen = average(start, end, old, new, options.images)["recommended"]["test"]
            chosen = {new: chosen["new"], old: chosen["kept"]}
            rows.setdefault(f"average, {name}", []).append(_row(chosen, before, reached, old, new))
    lines = [
        f"## {Path(old).name} → {Path(new).name}: {options.start_steps} steps, then {options.steps}",
        "",
        "| network | new | old | new − scratch | new − start | old − start |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, found in rows.items():
        means = [f"{statistics.mean(row[key] for row in found):.1f}" for key in ("new", "old")]
        against = [compare([row[key] for row in found]) for key in ("scratch", "gained", "forgotten")]
        lines.append(f"| {name} | {' | '.join([*means, *against])} |")
    return [*lines, ""]


def _row(
    after: dict[str, float], before: dict[str, float], scratch: dict[str, float], old: str, new: str
) -> dict[str, float]:
    return {
        "new": after[new],
        "old": after[old],
        "scratch": after[new] - scratch[new],
        "gained": after[new] - before[new],
        "forgotten": after[old] - before[old],
    }


def main() -> None:
    """Run what is missing, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, default=Path("continued"))
    parser.add_argument("--pairs", nargs="+", required=True, help="OLD:NEW, each as --dataset takes it.")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--start-steps", type=int, default=300)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--images", type=int, default=2000, help="Images of each split that k-NN takes.")
    parser.add_argument("--variant", action="append", default=[], help="NAME='FLAGS' of a continued run, repeatable.")
    options = parser.parse_args()
    lines = [line for pair in options.pairs for line in run_pair(*pair.split(":", 1), options)]
    (options.output_dir / "continued.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
