"""Shows in one call that the package works on a GPU, and how fast: eight minutes of one card.

    python tests/benchmarks/on_gpu.py --output DIR
    python tests/benchmarks/on_gpu.py --output DIR --dry-run

Needs torch, transformers, timm and what the package needs else; pytest for the part `tests`. Every part runs in a
process of its own with a time limit, so that one that fails or hangs costs no other; what they print comes as they go.
DIR then holds on_gpu.json (every part with its verdict, versions, card and commit), on_gpu.log, and one report for
each section of BENCHMARKS.md: put those into tests/benchmarks/results/ and run `make bench-report`.
`--dry-run` goes through every part on the CPU with tiny sizes in a minute or two: what it measures means nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import benchmark_contrastive_loss as loss
import benchmark_feature_extraction as feature_extraction
import benchmark_knn as knn
import benchmark_training_step as training_step
import benchmark_two_views as two_views
import torch
from interleaved import interleaved_seconds, machine, write_report
from safetensors.torch import load_file
from torch.profiler import ProfilerActivity, profile
from transformers import TrainerCallback

from synco_hub.atomic_write import atomic_write
from synco_hub.results import library_versions
from trainers.pretraining_model import SynCoForPreTraining
from trainers.pretraining_run import build_config, open_images, pretrain
from trainers.pretraining_trainer import SynCoTrainer
from trainers.recipe import parse

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Sizes:
    """How large everything is: the card's run, or the dry one."""

    device: str
    batch: int
    image_size: int
    rounds: int
    backbones: tuple[str, ...]
    large: tuple[str, ...]
    loss_batches: tuple[int, ...]
    queue: int
    banks: tuple[int, ...]
    pictures: int
    epochs: int
    compile_backend: str


CARD = Sizes(
    device="cuda",
    batch=512,
    image_size=224,
    rounds=15,
    backbones=("deit-s", "swin-t"),
    large=("vit-b", "vit-l", "swin-b"),
    loss_batches=(128, 512, 2048),
    queue=4096,
    banks=(100_000, 1_281_167),
    pictures=6_144,
    epochs=5,
    compile_backend="inductor",
)
DRY = Sizes(
    device="cpu",
    batch=4,
    image_size=32,
    rounds=2,
    backbones=("vit-nano", "swin-nano"),
    large=("vit-nano",),
    loss_batches=(8,),
    queue=512,
    banks=(2_000,),
    pictures=24,
    epochs=2,
    compile_backend="aot_eager",
)


# --- Parts: each returns plain data, and may write one report for BENCHMARKS.md into the folder. ---


def run_tests(sizes: Sizes, folder: Path) -> dict[str, Any]:
    """`pytest -m gpu` on the files that hold such tests; in a dry run they are only collected."""
    files = [str(path) for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text()]
    only = ["--collect-only"] if sizes.device == "cpu" else []
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *only, *files]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    print(ended.stdout[-6000:], ended.stderr[-2000:])
    if ended.returncode:
        raise RuntimeError(f"pytest ended with {ended.returncode}")
    return {"last line": ended.stdout.strip().splitlines()[-1]}


def time_steps(sizes: Sizes, folder: Path) -> dict[str, Any]:
    """Whole steps of MoBY and SynCo-v2 in bf16, eager and compiled."""
    rows = []
    for compiled in (False, True):
        for backbone in sizes.backbones:
            rows += training_step.methods(
                backbone,
                sizes.batch,
                sizes.rounds,
                sizes.device,
                "bf16",
                sizes.compile_backend if compiled else "",
                names=("moby", "synco-v2"),
                image_size=sizes.image_size,
            )
            print(*rows[-2:], sep="\n", flush=True)
    settings = {"batch": sizes.batch, "rounds": sizes.rounds, "precision": "bf16", "image_size": sizes.image_size}
    found = training_step.findings(rows, sizes.device)
    write_report(
        folder / f"training_step_{sizes.device}.json",
        "A whole pretraining step",
        settings,
        rows,
        found,
        sizes.device,
    )
    return {"rows": rows}


def time_losses(sizes: Sizes, folder: Path) -> dict[str, Any]:
    """The contrastive losses side by side; both directions of a step in one call, too."""
    rows = []
    for batch in sizes.loss_batches:
        rows += loss.measure(batch, sizes.queue, sizes.rounds, sizes.device, slow=batch <= 512)
        print(*rows[-len(loss.VARIANTS) :], sep="\n", flush=True)
    settings = {"dim": loss.DIM, "num_hard_negatives": loss.NUM_HARD_NEGATIVES, "synthetic": "6 x 128"}
    title = "Contrastive loss, forward and backward of one direction"
    report = folder / f"contrastive_loss_{sizes.device}.json"
    write_report(report, title, settings, rows, loss.findings(rows), sizes.device)
    return {"rows": rows}


def time_views(sizes: Sizes, folder: Path) -> dict[str, Any]:
    """The device's half of two views, eager and compiled, and what the loading processes bring."""
    pictures = [two_views.photograph_bytes(seed) for seed in range(min(16, sizes.batch))]
    found, rows = two_views.on_device(
        pictures, sizes.rounds, sizes.device, sizes.batch, sizes.image_size, sizes.compile_backend
    )
    settings = {"images": f"{len(pictures)} JPEGs", "image_size": sizes.image_size, "rounds": sizes.rounds}
    report = folder / f"two_views_{sizes.device}.json"
    write_report(report, "two views of a JPEG", settings, rows, found, sizes.device)
    return {"rows": rows, "findings": [(each.what, each.measured, each.unit) for each in found]}


class StepClock(TrainerCallback):
    """When each optimizer step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())


def train_on_jpegs(sizes: Sizes, folder: Path) -> dict[str, Any]:
    """The real trainer from JPEG files: images a second over whole epochs, and how long each epoch's start waits."""
    images = folder / "jpegs"
    different = [two_views.photograph_bytes(seed) for seed in range(min(64, sizes.pictures))]
    for number in range(sizes.pictures):
        place = images / f"{number % 4}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:05d}.jpg").write_bytes(different[number % len(different)])
    rows = []
    for compiled in (False, True):
        clock = StepClock()
        flags = [f"--torch-compile={compiled}", f"--torch-compile-backend={sizes.compile_backend}"] if compiled else []
        run = parse(pretraining_flags(sizes, images, folder / f"end-to-end-{compiled}", *flags))
        _, dataset = open_images(run.data, sizes.image_size, run.training.seed)
        model = SynCoForPreTraining(build_config(run.backbone, run.settings))
        trainer = SynCoTrainer(model, run.training, dataset, callbacks=[clock])
        begin = time.perf_counter()
        trainer.train()
        steps = sizes.pictures // sizes.batch
        taken = [b - a for a, b in zip(clock.ends, clock.ends[1:], strict=False)]
        # The first epoch starts workers and compiles.
        later = taken[steps - 1 :]
        first_steps, others = later[::steps], [t for k, t in enumerate(later) if k % steps]
        rows.append(
            {
                "compiled": compiled,
                "seconds to the first step's end": round(clock.ends[0] - begin, 2),
                "images_per_second": round(sizes.batch * len(later) / sum(later), 1),
                "within_epochs": round(sizes.batch / statistics.mean(others), 1),
                "wait_at_an_epochs_start_s": round(statistics.mean(first_steps) - statistics.mean(others), 3),
                "steps_an_epoch": steps,
                "workers": run.training.dataloader_num_workers,
            }
        )
        print(rows[-1], flush=True)
    return {"rows": rows}


def time_knn(sizes: Sizes, folder: Path) -> dict[str, Any]:
    """The vote against the usual loop; of the largest bank the vote alone."""
    rows: list[dict[str, Any]] = [knn.compare(sizes.banks[0], min(1_000, sizes.banks[0] // 20), sizes.device)]
    for bank in sizes.banks[1:]:
        rows.append(knn.time_vote(bank, 1_000, sizes.device))
    print(*rows, sep="\n", flush=True)
    settings = {"dim": knn.DIM, "classes": knn.NUM_CLASSES, "k": list(knn.DEFAULT_KS), "rounds": knn.ROUNDS}
    report = folder / f"knn_{sizes.device}.json"
    write_report(report, "Weighted k-NN vote, every k", settings, rows, knn.findings(rows, sizes.device), sizes.device)
    return {"rows": rows}


def time_features(sizes: Sizes, folder: Path) -> dict[str, Any]:
    """Feature extraction, fp32 and bf16."""
    batches = (sizes.batch // 4, sizes.batch)
    rows, found = feature_extraction.measure(
        sizes.backbones, batches, min(sizes.rounds, 7), sizes.device, sizes.image_size
    )
    settings = {"rounds": sizes.rounds, "image_size": sizes.image_size}
    report = folder / f"feature_extraction_{sizes.device}.json"
    write_report(report, "Feature extraction", settings, rows, found, sizes.device)
    return {"rows": rows}


def repeat_runs(sizes: Sizes, folder: Path) -> dict[str, Any]:
    """Two equal runs, and one killed and resumed: how far are their weights apart? On a card also fully determined."""
    found: dict[str, Any] = {}
    for name, flags in {"as it is": (), "with --full-determinism": ("--full-determinism",)}.items():
        if flags and sizes.device == "cpu":
            continue
        weights = {}
        for run in ("first", "second", "killed"):
            output = folder / f"{run} {name}"
            arguments = [*small_run(sizes, output), *flags]
            if run == "killed":
                kill_after_checkpoint(arguments, output)
                arguments.append("--resume")
            # cuBLAS is made deterministic before its first call or not at all.
            run_alone(arguments) if flags else pretrain(parse(arguments))
            weights[run] = load_file(output / "model.safetensors")
        found[name] = {
            run: max(float((weights["first"][key] - weights[run][key]).abs().max()) for key in weights["first"])
            for run in ("second", "killed")
        }
        print(f"{name}: largest difference of a weight {found[name]}", flush=True)
    return found


def small_run(sizes: Sizes, output: Path) -> list[str]:
    """Flags of a small pretraining run, which saves after four of twelve steps."""
    return [
        *("--backbone=vit-nano", "--image-size=32", "--dataset=fractals", "--per-device-train-batch-size=32"),
        *("--projection-hidden-dim=64", "--projection-dim=32", "--queue-size=256", "--max-steps=12"),
        *("--save-steps=4", "--logging-steps=4", "--learning-rate=1e-3", "--disable-tqdm=true"),
        *("--dataloader-num-workers=2", f"--output-dir={output}"),
        *(["--use-cpu"] if sizes.device == "cpu" else ["--bf16"]),
    ]


def run_alone(arguments: list[str]) -> None:
    """A pretraining run in a process of its own."""
    command = [sys.executable, "-m", "trainers.pretrain", *arguments]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def kill_after_checkpoint(arguments: list[str], output: Path) -> None:
    """Start a run and end it, as abruptly as can be, once it has saved."""
    command = [sys.executable, "-m", "trainers.pretrain", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True)
    while process.poll() is None and not any(output.glob("checkpoint-*")):
        time.sleep(0.01)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def try_modes(sizes: Sizes, folder: Path) -> dict[str, Any]:
    """A few steps in every mode of training end with finite weights; SyncBatchNorm sees the whole batch."""
    modes = {
        "fp16": ["--fp16", "--bf16=false"],
        "gradient checkpointing": ["--gradient-checkpointing"],
        "accumulation": ["--gradient-accumulation-steps=2"],
        "compiled": ["--torch-compile", f"--torch-compile-backend={sizes.compile_backend}"],
        "swin": ["--backbone=swin-nano"],
        "byol": ["--method=byol"],
    }
    if sizes.device == "cpu":
        del modes["fp16"]
    found = {}
    for name, flags in modes.items():
        pretrain(parse([*small_run(sizes, folder / name), "--max-steps=4", "--save-strategy=no", *flags]))
        values = load_file(folder / name / "model.safetensors").values()
        found[name] = "finite" if all(bool(torch.isfinite(value).all()) for value in values) else "not finite"
        print(f"{name}: {found[name]}", flush=True)
    found["SyncBatchNorm"] = check_synchronised_norm(sizes.device)
    print(f"SyncBatchNorm: {found['SyncBatchNorm']}", flush=True)
    if "not finite" in found.values():
        raise RuntimeError(f"weights are not finite: {found}")
    return found


def check_synchronised_norm(device: str) -> str:
    """Two processes on one card, half a batch each, against BatchNorm of the whole batch."""
    if device == "cpu":
        return "needs a GPU"
    torch.multiprocessing.spawn(_synchronised_norm, nprocs=2)
    return "as one batch"


def _synchronised_norm(rank: int) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29507"}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    batch = torch.randn(64, 8, generator=torch.Generator().manual_seed(0)).cuda()
    whole = torch.nn.BatchNorm1d(8).cuda()
    parts = torch.nn.SyncBatchNorm.convert_sync_batchnorm(torch.nn.BatchNorm1d(8)).cuda()
    torch.testing.assert_close(parts(batch.chunk(2)[rank]), whole(batch).chunk(2)[rank], rtol=1e-5, atol=1e-5)
    torch.distributed.destroy_process_group()


def try_large_networks(sizes: Sizes, folder: Path) -> dict[str, Any]:
    """Peak memory and speed of a step of the large networks with gradient checkpointing."""
    rows = []
    for backbone in sizes.large:
        model = training_step.network(backbone, "synco-v2", sizes.device, sizes.image_size)
        model.gradient_checkpointing_enable()
        shape = (sizes.batch, 3, sizes.image_size, sizes.image_size)
        step = training_step.step_of(model, [torch.randn(shape, device=sizes.device) for _ in "12"], "bf16")
        if sizes.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        times = interleaved_seconds({"step": step}, 3, sizes.device)["step"]
        peak = torch.cuda.max_memory_allocated() / 2**30 if sizes.device == "cuda" else None
        rate = round(sizes.batch / statistics.median(times), 1)
        rows.append({"backbone": backbone, "batch": sizes.batch, "images_per_second": rate, "peak_gib": peak})
        print(rows[-1], flush=True)
        del model, step
        if sizes.device == "cuda":
            torch.cuda.empty_cache()
    return {"rows": rows}


def profile_step(sizes: Sizes, folder: Path) -> dict[str, Any]:
    """The ten slowest kernels of a step, and how many are launched."""
    model = training_step.network(sizes.backbones[0], "synco-v2", sizes.device, sizes.image_size)
    shape = (sizes.batch, 3, sizes.image_size, sizes.image_size)
    step = training_step.step_of(model, [torch.randn(shape, device=sizes.device) for _ in "12"], "bf16")
    for _ in range(3):
        step()
    on_card = sizes.device == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_card else [])]
    with profile(activities=activities) as seen:
        step()
        if on_card:
            torch.cuda.synchronize()
    kind = torch.autograd.DeviceType.CUDA if on_card else torch.autograd.DeviceType.CPU
    events = [event for event in seen.key_averages() if event.device_type == kind]
    own = "self_device_time_total" if on_card else "self_cpu_time_total"
    slowest = sorted(events, key=lambda event: -getattr(event, own))[:10]
    rows = [
        {"kernel": e.key[:100], "milliseconds": round(getattr(e, own) / 1e3, 3), "calls": e.count} for e in slowest
    ]
    print(*rows, sep="\n", flush=True)
    return {"rows": rows, "launches": sum(event.count for event in events)}


Part = Callable[[Sizes, Path], dict[str, Any]]
# In the order of what matters if time runs out; seconds that a part may take on a card.
PARTS: dict[str, tuple[Part, int]] = {
    "tests": (run_tests, 60),
    "step": (time_steps, 180),
    "loss": (time_losses, 60),
    "views": (time_views, 60),
    "end to end": (train_on_jpegs, 120),
    "k-NN": (time_knn, 45),
    "repeat": (repeat_runs, 120),
    "modes": (try_modes, 120),
    "features": (time_features, 45),
    "large": (try_large_networks, 60),
    "profile": (profile_step, 45),
}


def pretraining_flags(sizes: Sizes, images: Path, output: Path, *further: str) -> list[str]:
    """Flags of the run from JPEGs."""
    workers = max(1, (os.cpu_count() or 1) - 1) if sizes.device == "cuda" else 1
    return [
        *(f"--backbone={sizes.backbones[0]}", f"--image-size={sizes.image_size}", f"--dataset={images}"),
        *(f"--per-device-train-batch-size={sizes.batch}", f"--num-train-epochs={sizes.epochs}"),
        *(f"--dataloader-num-workers={workers}", f"--output-dir={output}", "--save-strategy=no"),
        *("--logging-steps=10", "--disable-tqdm=true", f"--queue-size={sizes.queue}"),
        *(["--use-cpu"] if sizes.device == "cpu" else ["--bf16"]),
        *further,
    ]


# --- The call: parts in turn, each in its process. ---


def main() -> None:
    """Run the parts, write what each found as soon as it is there, and show a table last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for on_gpu.json, the log and the reports")
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes on the CPU")
    parser.add_argument("--minutes", type=float, default=8, help="time for all parts; what is left over is skipped")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), help="only these")
    parser.add_argument("--one-part", choices=list(PARTS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = DRY if options.dry_run else CARD
    if options.one_part:
        run_one(options.one_part, sizes, options.output)
        return
    if sizes.device == "cuda" and not torch.cuda.is_available():
        sys.exit("error: there is no CUDA device here: use --dry-run on a CPU")
    options.output.mkdir(parents=True, exist_ok=True)
    sys.exit(run_all(options.parts, sizes, options.output, options.minutes))


def run_one(name: str, sizes: Sizes, output: Path) -> None:
    """A part, in its own process: what it found and its report into `output`, all else is thrown away."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as scratch:
        found = PARTS[name][0](sizes, Path(scratch))
        for report in Path(scratch).glob(f"*_{sizes.device}.json"):
            shutil.copy(report, output)
    (output / f"{name}.part").write_text(json.dumps(found))


def run_all(names: list[str], sizes: Sizes, output: Path, minutes: float) -> int:
    """Every part that there is time for; the number of those that failed."""
    ends = time.monotonic() + 60 * minutes
    whole: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": read_commit(),
        "dry_run": sizes.device == "cpu",
        "machine": machine(sizes.device),
        "versions": library_versions(),
        "parts": {},
    }
    with (output / "on_gpu.log").open("w") as log:
        for name in names:
            limit = min(PARTS[name][1], ends - time.monotonic())
            say(log, f"\n=== {name} (at most {max(0, limit):.0f} s)")
            whole["parts"][name] = (
                {"verdict": "no time left"} if limit < 5 else run_part(name, output, sizes, limit, log)
            )
            with atomic_write(output / "on_gpu.json") as unfinished:
                unfinished.write_text(json.dumps(whole, indent=1) + "\n")
        say(log, f"\n{'part':12s} {'seconds':>8s}  verdict")
        for name, part in whole["parts"].items():
            say(log, f"{name:12s} {part.get('seconds', 0):8.1f}  {part['verdict']}")
    return sum(part["verdict"] != "done" for part in whole["parts"].values())


def run_part(name: str, output: Path, sizes: Sizes, limit: float, log: IO[str]) -> dict[str, Any]:
    """One part in a process group of its own, which is ended at its limit."""
    command = [sys.executable, __file__, "--output", str(output), "--one-part", name]
    command += ["--dry-run"] if sizes.device == "cpu" else []
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH")]))
    began = time.monotonic()
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True
    )
    late = threading.Event()

    def end() -> None:
        late.set()
        os.killpg(child.pid, signal.SIGKILL)

    timer = threading.Timer(limit, end)
    timer.start()
    assert child.stdout is not None
    for line in child.stdout:
        say(log, line.rstrip())
    code = child.wait()
    timer.cancel()
    seconds, found = round(time.monotonic() - began, 1), output / f"{name}.part"
    if late.is_set():
        return {"verdict": f"ended at its limit of {limit:.0f} s", "seconds": seconds}
    if code or not found.exists():
        return {"verdict": f"failed with {code}, see on_gpu.log", "seconds": seconds}
    values = json.loads(found.read_text())
    found.unlink()
    return {"verdict": "done", "seconds": seconds, **values}


def say(log: IO[str], line: str) -> None:
    """On the screen and into the log, at once."""
    for place in (sys.stdout, log):
        print(line, file=place, flush=True)


def read_commit() -> str | None:
    """The commit that is measured, where git knows."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


if __name__ == "__main__":
    main()
