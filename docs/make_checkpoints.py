"""The checkpoints that ship with the package: `synco-hub demo` of each method, measured, with card and checksums.

Run: make checkpoints, or python docs/make_checkpoints.py --runs synco-demo (a quarter of an hour on two CPU cores)
Seed 0 and the number of steps are the demonstration's. On another kind of processor a run ends at other weights, and
the numbers are a point or two from these. Put the lines that it prints into `synco_hub/zoo.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from synco_hub.hub.card.facts import FACTS_FILE, CardFacts, write_facts
from synco_hub.hub.card.model_card import refresh_card
from synco_hub.protocols import measure
from synco_hub.results import EvaluationResult
from synco_hub.settings import DatasetChoice, KnnSettings, LogisticSettings
from synco_hub.zoo import CHECKSUMS_FILE, EMBEDDED

METHODS = {"synco-v2": "SynCo-v2", "moby": "MoBY", "byol": "BYOL"}
# Of a run: what loads, what says how it was made, and what the leak check compares with.
KEPT = (
    "config.json", "preprocessor_config.json", "model.safetensors", "pretraining_settings.json",
    "pretraining_images.npz",
)  # fmt: skip
KNN_FILE, LOGISTIC_FILE = "results_knn_fractals.json", "results_logistic_fractals.json"


def train(method: str, runs: Path) -> Path:
    """The run of the demonstration, from now or before; it is installed nowhere."""
    run = runs / f"{method}-vit-nano"
    if not (run / "model.safetensors").is_file():
        with tempfile.TemporaryDirectory() as home:
            command = [sys.executable, "-m", "synco_hub.cli", "demo", "--method", method, "--output-dir", str(runs)]
            subprocess.run(command, env={**os.environ, "SYNCO_HUB_HOME": home}, check=True)
    return run


def describe(method: str) -> CardFacts:
    """What the card says that no file tells."""
    return CardFacts(
        title=f"{METHODS[method]}, ViT-nano on fractals",
        summary="A vision transformer of 0.36 million parameters (three blocks, patches of 8 in images of 32 "
        f"pixels), pretrained without labels by {METHODS[method]} on 1,000 drawn fractals in 1,000 steps. It "
        "ships with synco-hub, so that everything there can be tried at once.",
        licence="apache-2.0",
        limits=(
            "To try commands with: it has seen drawn fractals of 32 pixels and nothing else, and says nothing about "
            "what the method is worth on photographs.",
            "Settings were chosen by looking at the held-out fractals on which it is measured, and only seed 0 was "
            "trained; at this scale random numbers decide more than the method.",
        ),
        how_to_obtain=(
            "It ships with synco-hub.",
            f"Train another: `synco-hub demo --method {method}` (minutes on two CPU cores).",
        ),
    )


def collect(method: str, run: Path, output: Path) -> Path:
    """Copy of a run what ships, measure it, and write its card."""
    directory = output / f"{method}-vit-nano"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    for name in KEPT:
        shutil.copyfile(run / name, directory / name)
    further = {"num_workers": 0, "device": "cpu", "progress": False}
    # By the name alone, so that the results hold no folder of this computer.
    with contextlib.chdir(output):
        measure("knn", directory.name, DatasetChoice(), KnnSettings(**further), Path(directory.name, KNN_FILE))
        place = Path(directory.name, LOGISTIC_FILE)
        measure("logistic", directory.name, DatasetChoice(), LogisticSettings(**further), place)
    write_facts(directory / FACTS_FILE, describe(method))
    refresh_card(directory)
    return directory


def write_checksums(output: Path) -> None:
    """One line a file, in the form that `sha256sum --check` reads."""
    files = sorted(file for file in output.rglob("*") if file.is_file() and file.name != CHECKSUMS_FILE)
    lines = [
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.relative_to(output).as_posix()}" for file in files
    ]
    (output / CHECKSUMS_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")


def spell_row(method: str, directory: Path) -> str:
    """The line of `synco_hub/zoo.py`."""
    knn, logistic = (EvaluationResult.load(directory / name) for name in (KNN_FILE, LOGISTIC_FILE))
    numbers = (knn.metrics["top1_k10"], knn.metrics["top1_k20"], logistic.metrics["top1"])
    return f'_small_row("{method}", "{knn.model.weights}", {", ".join(f"{number:.1f}" for number in numbers)}),'


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is not trained, and write the folder anew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("synco-demo"), help="runs of the demo, trained if not there")
    parser.add_argument("--output", type=Path, default=EMBEDDED, help="folder of the checkpoints")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        # Beside each other and away from the package, whose own copy is never written to before the new one is whole.
        made = {method: collect(method, train(method, chosen.runs), Path(temporary)) for method in METHODS}
        write_checksums(Path(temporary))
        rows = [spell_row(method, directory) for method, directory in made.items()]
        shutil.rmtree(chosen.output, ignore_errors=True)
        shutil.copytree(temporary, chosen.output)
    sys.stdout.write("\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
