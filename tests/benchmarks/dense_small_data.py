"""Does pretraining help dense tasks at the smallest scale? Frozen backbones on composed pictures, seed by seed.

Run: PYTHONPATH=tests python tests/benchmarks/dense_small_data.py --stamps /usr/share/tuxpaint/stamps \
         --photographs FOLDER --output-dir FOLDER --seeds 0 1 2 3 4 [--heads 4] [--last-block] [--demo CHECKPOINT]

Stamps are cut-outs with an alpha channel in folders of their classes (Debian's tuxpaint-stamps-default); photographs
are any pictures. Every fourth stamp of a class and every third photograph are in test pictures only. For each seed a
vit-nano is pretrained on composed pictures without labels (`composed_pictures.py`), and it and the network that it
began as are measured, frozen, by `evaluate segmentation --probe knn` and under UperNet (docs/examples/). `--heads`
measures both several times, each with labelled pictures of its own while they last, and takes the mean, since
what a hundred pictures teach differs by about a point. `--demo` is measured beside, the checkpoint of `make demo`,
which saw fractals. `--last-block` gives UperNet the last block at four strides, in the place of three blocks at one
each; it wants an output folder of its own. What is finished is not done again. A seed takes about ten minutes on two
cores, and one more for every further head; `--steps 1500` with OMP_NUM_THREADS=1 pretrains in five.

What was found stands in BENCHMARKS.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from composed_pictures import find_cut_outs, write_pictures
from PIL import Image
from scipy.stats import t as student
from transformers import set_seed

from synco_hub import evaluate
from synco_hub.atomic_write import atomic_write
from synco_hub.models import image_processor
from trainers.pretraining_model import SynCoForPreTraining
from trainers.pretraining_run import build_config
from trainers.recipe import parse

ROOT = Path(__file__).resolve().parents[2]
CLASSES = ("animals/birds", "animals/mammals", "animals/insects", "food/fruit", "plants/flowers", "vehicles")
LEFT_OUT = "symbols"  # letters and signs
SIZE = 64
COUNTS = {"pretrain": 10000, "train": 1000, "test": 400}
# Labelled pictures that a head learns from, and steps of UperNet on them.
HEAD_STEPS = {100: 200, 1000: 600}
RECIPE = "small/3000"
# Views of 32 pixels, 16 patches each, so that in the same time a network sees four times as many as at 64.
VIEWS = "--image-size 32"
HEAD = f"--freeze_backbone --size {SIZE} --hidden_size 64 --learning_rate 3e-3 --per_device_train_batch_size 16"
NETWORKS = ("random", "pretrained", "demo")
METRICS = ("miou", "miou_without_class_0")


def write_data(stamps: Path, photographs: Path, folder: Path, seed: int) -> None:
    """Composed pictures of a seed: for pretraining, and labelled ones for training and testing."""
    files = find_cut_outs(stamps, CLASSES)
    tested = {path for each in files for path in each[3::4]}
    others = sorted(each.name for each in stamps.iterdir() if each.is_dir() and each.name != LEFT_OUT)
    unlabelled = [path for each in find_cut_outs(stamps, others) for path in each if path not in tested]
    pictures = sorted(path for path in photographs.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    for number, (split, count) in enumerate(COUNTS.items()):
        test = split == "test"
        chosen = [[path for path in each if (path in tested) is test] for each in files]
        if split == "pretrain":
            chosen = [unlabelled]
        cut_outs = [[Image.open(path).convert("RGBA") for path in each] for each in chosen]
        grounds = [Image.open(path).convert("RGB") for place, path in enumerate(pictures) if (place % 3 == 2) is test]
        place = folder / "pretrain" if split == "pretrain" else folder / "labelled"
        write_pictures(
            place, "train" if split == "pretrain" else split, count, grounds, cut_outs, SIZE, 10 * seed + number
        )


def pretrain(folder: Path, seed: int, steps: int, flags: str) -> dict[str, Path]:
    """The pretrained network and the one that it began as, beside each other."""
    words = [f"--recipe={RECIPE}", f"--dataset={folder / 'pretrain' / 'images'}", f"--seed={seed}"]
    words += [f"--max-steps={steps}", "--per-device-train-batch-size=64", "--dataloader-num-workers=1"]
    words += ["--save-strategy=no", *flags.split()]
    words += [f"--output-dir={folder / 'pretrained'}"]
    run = parse(words)
    set_seed(seed)
    network = SynCoForPreTraining(build_config(run.backbone, run.settings)).synco
    network.save_pretrained(folder / "random")
    image_processor(SIZE).save_pretrained(folder / "random")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    subprocess.run([sys.executable, "-m", "trainers.pretrain", *words], check=True, env=environment)
    return {name: folder / name for name in ("random", "pretrained")}


def take(folder: Path, count: int, draw: int) -> Path:
    """The labelled pictures with so many of those to train on, as links: other ones in each draw while they last."""
    start = draw * count % COUNTS["train"]
    fewer = folder / f"labelled-{count}-from-{start}"
    for kind in ("images", "masks"):
        (fewer / kind / "train").mkdir(parents=True, exist_ok=True)
        for path in sorted((folder / "labelled" / kind / "train").iterdir())[start : start + count]:
            link = fewer / kind / "train" / path.name
            link.unlink(missing_ok=True)
            link.symlink_to(path.resolve())
        if not (fewer / kind / "test").exists():
            (fewer / kind / "test").symlink_to((folder / "labelled" / kind / "test").resolve())
    return fewer


def measure_knn(checkpoint: Path, data: Path) -> dict[str, float]:
    """Mean IoU of the k-NN probe, whole and without the photograph."""
    settings: dict[str, Any] = {"side": SIZE, "num_classes": 1 + len(CLASSES), "device": "cpu", "progress": False}
    found = evaluate("segmentation", checkpoint, data, probe="knn", **settings)
    return {name: found.metrics[name] for name in METRICS}


def measure_upernet(checkpoint: Path, data: Path, output: Path, seed: int, steps: int, *more: str) -> dict[str, float]:
    """Mean IoU of a UperNet trained on the frozen network, whole and without the photograph."""
    specification = importlib.util.spec_from_file_location(
        "heads", ROOT / "docs" / "examples" / "train_segmentation.py"
    )
    assert specification is not None
    assert specification.loader is not None
    script: Any = importlib.util.module_from_spec(specification)
    sys.modules["heads"] = script
    specification.loader.exec_module(script)
    set_seed(seed)  # the head's weights are drawn before the Trainer sets its seed
    words = f"--model {checkpoint} --data {data} --output_dir {output} --seed {seed} --max_steps {steps}"
    quiet = "--use_cpu --report_to none --disable_tqdm true --save_strategy no --logging_steps 1000"
    metrics = script.main([*words.split(), *HEAD.split(), *quiet.split(), *more])
    return {name: metrics[f"eval_{name}"] for name in METRICS}


def compare(given: argparse.Namespace, seed: int) -> dict[str, dict[str, list[float]]]:
    """Numbers of a seed's networks, each kept as soon as it is measured; one for each head."""
    folder = given.output_dir / f"seed-{seed}"
    kept = folder / "results.json"
    numbers: dict[str, dict[str, list[float]]] = json.loads(kept.read_text()) if kept.is_file() else {}
    if not (folder / "pictures-written").exists():
        write_data(given.stamps, given.photographs, folder, seed)
        (folder / "pictures-written").touch()
    checkpoints = {name: folder / name for name in NETWORKS[:2]}
    if not (folder / "pretrained" / "model.safetensors").is_file():
        checkpoints = pretrain(folder, seed, given.steps, given.flags)
    if given.demo is not None:
        checkpoints["demo"] = given.demo

    def keep(name: str, kind: str, labelled: int, found: dict[str, float]) -> None:
        for metric, value in found.items():
            numbers.setdefault(name, {}).setdefault(f"{kind}_{metric}_{labelled}", []).append(value)
        with atomic_write(kept) as temporary:
            temporary.write_text(json.dumps(numbers, indent=2))

    more = ["--last_block"] if given.last_block else []
    for labelled, (name, checkpoint) in itertools.product(given.labelled, checkpoints.items()):
        for draw in range(given.heads):
            data = take(folder, labelled, draw)
            done = {metric: len(values) for metric, values in numbers.get(name, {}).items()}
            if done.get(f"knn_miou_{labelled}", 0) <= draw:
                keep(name, "knn", labelled, measure_knn(checkpoint, data))
            if done.get(f"upernet_miou_{labelled}", 0) <= draw:
                # A head begins with the same weights on each network of a seed.
                begun, head = 1000 * draw + seed, folder / "head"
                found = measure_upernet(checkpoint, data, head, begun, HEAD_STEPS[labelled], *more)
                keep(name, "upernet", labelled, found)
    return numbers


def summarise(found: list[dict[str, dict[str, list[float]]]]) -> None:
    """Means, and the mean difference to the random network with its 95 % interval over paired seeds."""
    means = [
        {name: {metric: statistics.fmean(heads) for metric, heads in each[name].items()} for name in each}
        for each in found
    ]
    for metric in means[0]["random"]:
        line = f"{metric:35s}"
        for name in NETWORKS:
            values = [each[name][metric] for each in means if metric in each.get(name, {})]
            if not values:
                continue
            line += f"  {name} {statistics.fmean(values):5.2f}"
            if name != "random" and len(values) > 1:
                gains = [each[name][metric] - each["random"][metric] for each in means if metric in each.get(name, {})]
                half = student.ppf(0.975, len(gains) - 1) * statistics.stdev(gains) / len(gains) ** 0.5
                line += f" ({statistics.fmean(gains):+.2f} ± {half:.2f})"
        print(line)


def main() -> None:
    """One seed after the other, then the means of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--stamps", "--photographs", "--output-dir"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=2000, help="of pretraining")
    parser.add_argument("--flags", default=VIEWS, help=f"further ones of `synco-hub pretrain`; default: {VIEWS}")
    parser.add_argument("--labelled", type=int, nargs="+", default=list(HEAD_STEPS), choices=list(HEAD_STEPS))
    parser.add_argument("--heads", type=int, default=1, help="measurements of each network, whose mean is taken")
    parser.add_argument("--last-block", action="store_true", help="UperNet on the last block's map at all strides")
    parser.add_argument("--demo", type=Path, default=None, help="checkpoint of `make demo`")
    given = parser.parse_args()
    found = []
    for seed in given.seeds:
        found.append(compare(given, seed))
        print(f"seed {seed}: {json.dumps(found[-1])}", flush=True)
    summarise(found)


if __name__ == "__main__":
    main()
