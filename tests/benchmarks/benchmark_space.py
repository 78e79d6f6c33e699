"""The Space under load: 32 visitors at once for a minute; then how long one picture and one slider move take.

Run: python tests/benchmarks/benchmark_space.py
Takes two minutes; writes tests/benchmarks/results/space_cpu.json.
Expected on two cores: no failed request, memory within 5 % after warm-up, DeiT-S attention of a 224 px picture below
1.5 s once the model is loaded, slider moves below 150 ms.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import torch
from gradio_client import Client, handle_file
from interleaved import RESULTS, Finding, write_report
from PIL import Image

from space_app.board import ATTENTION, Controls, render_board
from space_app.model_cache import ModelCache
from space_app.views import ResultCache
from synco_hub.models import SynCoConfig, SynCoModel, image_processor

ROOT = Path(__file__).parents[2]
KINDS = ("[CLS], mean of the heads", "[CLS], one head", "patch self-attention", "rollout through all blocks")
# Of ten requests two show a picture that nobody has shown before, the others move a control.
SHARE_OF_NEW_PICTURES = 0.2


@dataclass
class Load:
    """What the visitors and the server went through.

    Attributes:
        latencies: Seconds of each answered request, after the warm-up.
        warmed: Requests answered before.
        failures: What went wrong.
        memory: Resident MiB of the server, once a second, after the warm-up.
    """

    latencies: list[float] = field(default_factory=list)
    warmed: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)

    @property
    def percentile_95(self) -> float:
        """Seconds within which 95 of 100 requests were answered."""
        return float(np.percentile(self.latencies, 95))

    @property
    def growth(self) -> float:
        """Memory of the last quarter over that of the first after the warm-up, in percent."""
        quarter = max(len(self.memory) // 4, 1)
        before, after = (statistics.median(part) for part in (self.memory[:quarter], self.memory[-quarter:]))
        return 100 * (after / before - 1)


def small_checkpoint(folder: Path, backbone: str = "vit-nano", side: int = 32) -> Path:
    """A network of random weights: what it costs does not depend on them."""
    torch.manual_seed(0)
    SynCoModel(SynCoConfig(backbone=backbone)).save_pretrained(folder / backbone)
    image_processor(side).save_pretrained(folder / backbone)
    return folder / backbone


@contextlib.contextmanager
def served(checkpoint: Path) -> Iterator[tuple[str, psutil.Process]]:
    """The Space in a process of its own, with its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "space_app.app", "--port", str(port), "--models", str(checkpoint)]
    environment = {"MALLOC_ARENA_MAX": "2", **os.environ, "PYTHONPATH": str(ROOT)}  # as `synco-hub space` starts it
    server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 240
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the Space did not start: exit code {server.poll()}")
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}", psutil.Process(server.pid)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=60)


def paint(generator: random.Random, folder: Path) -> Path:
    """A picture that nobody has shown before."""
    pixels = np.random.default_rng(generator.getrandbits(32)).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    path = folder / f"{generator.getrandbits(64):x}.png"
    Image.fromarray(pixels).resize((160, 120)).save(path)
    return path


def visit(
    number: int, address: str, folder: Path, load: Load, counting: threading.Event, stop: threading.Event
) -> None:
    """One visitor: shows pictures and moves controls until told to stop."""
    generator = random.Random(number)
    try:
        client = Client(address, verbose=False, download_files=str(folder / str(number)))
    except Exception as error:
        load.failures.append(f"no connection: {error!r}")
        return
    picture = handle_file(str(paint(generator, folder)))
    while not stop.is_set():
        if generator.random() < SHARE_OF_NEW_PICTURES:
            picture = handle_file(str(paint(generator, folder)))
        settings = (generator.choice(KINDS), generator.randint(1, 3), 1.0, round(generator.random(), 2))
        start = time.perf_counter()
        try:
            (entry,) = client.predict(picture, ["vit-nano"], 1, *settings, api_name="/attention")
            Image.open(entry["image"]).load()
        except Exception as error:
            load.failures.append(repr(error))
            continue
        answered = load.latencies if counting.is_set() else load.warmed
        answered.append(time.perf_counter() - start)


def loaded(address: str, server: psutil.Process, users: int, seconds: float, warmup: int) -> Load:
    """Let visitors come, wait for the warm-up, and watch.

    Args:
        address: Of the server.
        server: Its process.
        users: Visitors at once.
        seconds: How long to watch.
        warmup: Answers before: the server remembers 64 results, and is warm when they are there.
    """
    load, counting, stop = Load(), threading.Event(), threading.Event()
    with tempfile.TemporaryDirectory() as folder:
        arguments = (address, Path(folder), load, counting, stop)
        visitors = [threading.Thread(target=visit, args=(number, *arguments)) for number in range(users)]
        for visitor in visitors:
            visitor.start()
        deadline = time.monotonic() + 600
        while len(load.warmed) < warmup and not load.failures and time.monotonic() < deadline:
            time.sleep(0.1)
        counting.set()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            load.memory.append(server.memory_info().rss / 2**20)
            time.sleep(1)
        stop.set()
        for visitor in visitors:
            visitor.join()
    return load


def one_visitor(folder: Path, rounds: int = 7) -> tuple[float, float]:
    """Median seconds of a new picture and of a slider move with DeiT-S, the model being loaded."""
    results = ResultCache(ModelCache([str(small_checkpoint(folder, "deit-s", 224))]))
    generator, first, moved = random.Random(0), [], []

    def board(path: Path, strength: float) -> float:
        start = time.perf_counter()
        list(render_board(results, ATTENTION, str(path), ["deit-s"], Controls(strength=strength), {}))
        return time.perf_counter() - start

    board(paint(generator, folder), 0.5)
    for _ in range(rounds):
        path = paint(generator, folder)
        first.append(board(path, 0.5))
        computed = results.computed
        moved.append(board(path, 0.7))
        if results.computed != computed:
            raise RuntimeError("a slider move ran the model again")
    return statistics.median(first), statistics.median(moved)


def main() -> None:
    """Measure, write the JSON whole, print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--warmup", type=int, default=400, help="answers before memory and time count")
    parser.add_argument("--output", type=Path, default=RESULTS / "space_cpu.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = folder  # the client leaves an empty folder there for each picture that it fetches
        with served(small_checkpoint(Path(folder))) as (address, server):
            load = loaded(address, server, options.users, options.seconds, options.warmup)
        first, moved = one_visitor(Path(folder))
    who = f"{options.users} visitors, {options.seconds:g} s, vit-nano"
    findings = [
        Finding(f"{who}: failed requests", len(load.failures), "", "≤ 0"),
        Finding(f"{who}: growth of memory after warm-up", load.growth, "%", "≤ 5"),
        Finding(f"{who}: requests answered", len(load.latencies), ""),
        Finding(f"{who}: 95 of 100 answered within", load.percentile_95, "s"),
        Finding("DeiT-S attention of a new 224 px picture, model loaded", first, "s", "≤ 1.5"),
        Finding("slider move, DeiT-S, no forward pass", 1e3 * moved, "ms", "≤ 150"),
    ]
    settings = {
        "users": options.users,
        "seconds": options.seconds,
        "warmup": options.warmup,
        "share_of_new_pictures": SHARE_OF_NEW_PICTURES,
        "times": "wall clock",
        "load_average": round(os.getloadavg()[0], 1),
    }
    rows = [
        {"median_s": statistics.median(load.latencies), "p95_s": load.percentile_95, "longest_s": max(load.latencies)},
        {"memory_mib": [round(value, 1) for value in load.memory], "failures": load.failures[:20]},
    ]
    write_report(options.output, "The Space under load", settings, rows, findings, "cpu")


if __name__ == "__main__":
    main()
