"""The scripts for a GPU go through all their parts on a CPU, so that they work when a card is there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from data_trees.original import idx, put
from PIL import Image
from safetensors.torch import load_file

SCRIPT = Path(__file__).parent / "benchmarks" / "on_gpu.py"
NEXT_SIZE = Path(__file__).parent / "benchmarks" / "next_size_on_gpu.py"


def call(output: Path, *flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--output", str(output), *flags]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


@pytest.mark.timeout(900)
def test_every_part_ends_well_in_a_dry_run(tmp_path):
    ended = call(tmp_path, "--dry-run", "--minutes", "12")
    assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-2000:]
    whole = json.loads((tmp_path / "on_gpu.json").read_text())
    assert {name: part["verdict"] for name, part in whole["parts"].items()} == dict.fromkeys(whole["parts"], "done")
    assert set(whole["parts"]) >= {
        "tests",
        "step",
        "loss",
        "views",
        "end to end",
        "k-NN",
        "repeat",
        "large",
        "profile",
    }
    # On one processor the promise is of bits.
    assert whole["parts"]["repeat"]["as it is"] == {"second": 0.0, "killed": 0.0}
    rows = whole["parts"]["step"]["rows"]
    assert {(row["method"], row["compiled"]) for row in rows} == {
        (method, compiled) for method in ("moby", "synco-v2") for compiled in (False, True)
    }
    assert len(list(tmp_path.iterdir())) <= 8
    assert ended.stdout.rstrip().splitlines()[-1].split() == ["profile", ended.stdout.split()[-2], "done"]
    assert (tmp_path / "on_gpu.log").read_text() == ended.stdout


def test_a_part_that_fails_or_takes_too_long_costs_no_other(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys, time\npart = sys.orig_argv[-2] if '--one-part' in sys.orig_argv else ''\n"
        "if part == 'loss': os.write(1, b'the card fell off'); os._exit(1)\nif part == 'k-NN': time.sleep(100)\n"
    )
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    flags = ("--dry-run", "--parts", "loss", "k-NN", "--minutes", "0.4")
    ended = call(tmp_path / "out", *flags, PYTHONPATH=path)
    verdicts = {
        name: part["verdict"] for name, part in json.loads((tmp_path / "out/on_gpu.json").read_text())["parts"].items()
    }
    assert ended.returncode == 2
    assert verdicts["loss"].startswith("failed with 1")
    assert verdicts["k-NN"].startswith("ended at its limit of ")
    assert "the card fell off" in ended.stdout


def test_without_a_card_it_says_so(tmp_path):
    ended = call(tmp_path / "out", CUDA_VISIBLE_DEVICES="")
    assert ended.returncode == 1
    assert ended.stderr.strip().endswith("error: there is no CUDA device here: use --dry-run on a CPU")
    assert not (tmp_path / "out").exists()


def test_the_next_size_of_the_zoo_is_trained_measured_and_described(tmp_path):
    generator = np.random.default_rng(5)
    for split, count in (("train", 24), ("t10k", 12)):
        pixels = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        put(tmp_path / "idx" / f"{split}-images-idx3-ubyte", idx(pixels))
        put(tmp_path / "idx" / f"{split}-labels-idx1-ubyte", idx(np.arange(count, dtype=np.uint8) % 10))
    (tmp_path / "pictures").mkdir()
    for number in range(6):
        picture = generator.integers(0, 256, (40, 50, 4), dtype=np.uint8)
        Image.fromarray(picture).save(tmp_path / "pictures" / f"{number}.png")
    command = [sys.executable, str(NEXT_SIZE), "--fashion-mnist", str(tmp_path / "idx"), "--seeds", "1", "--dry-run"]
    command += ["--pictures", str(tmp_path / "pictures"), "--output", str(tmp_path / "out")]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-3000:]
    found = json.loads((tmp_path / "out" / "next_size.json").read_text())
    assert sorted(found["runs"]) == [f"{method}-vit-nano-seed0" for method in ("byol", "moby", "synco-v2")]
    for name, numbers in found["runs"].items():
        weights = load_file(tmp_path / "out" / name / "model.safetensors")
        assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
        assert set(numbers["knn"]) == {"results_knn_fashion-mnist", "results_knn_fractals"}
        assert "training.learning_rate | 0.001" in (tmp_path / "out" / name / "README.md").read_text()
    before = (tmp_path / "out" / "next_size.json").read_bytes()
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert (tmp_path / "out" / "next_size.json").read_bytes() == before  # nothing was trained again
