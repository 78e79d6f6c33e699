"""A run that is killed and resumed ends with the same bits as one that was left alone."""

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from trainers.runs.checkpoints import UNFINISHED, find_damage

STEPS = 30
# 44 images in batches of 4, two a step: an epoch has 11 micro-batches, so its last step accumulates one only.
# 30 steps are 5 epochs; synthesis starts at step 3 and ends at step 20.
FLAGS = (
    "--backbone vit-nano --depth 1 --embed-dim 32 --num-heads 2 --queue-size 20 --num-hard-negatives 4 "
    "--projection-hidden-dim 16 --projection-dim 8 --dataloader-num-workers 2 --use-cpu --logging-steps 7 "
    "--max-steps 30 --save-strategy steps --save-steps 3 --disable-tqdm true --learning-rate 1e-3 --seed 5"
).split()
# The whole batch of a step is 8 whatever the number of processes.
BATCH = {
    1: ["--per-device-train-batch-size", "4", "--gradient-accumulation-steps", "2"],
    2: ["--per-device-train-batch-size", "2", "--gradient-accumulation-steps", "2"],
}
# Shards of unequal length whose 44 images are those of the folder in number; two processes share them row by row.
SHARDS = (13, 9, 12, 10)
STREAMING = ("--streaming", "--shuffle-buffer", "9")
SAVING = ("torn optimizer.pt", "wrote scheduler.pt", "torn training_args.bin", "hashing", "before rename")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("photographs")
    generator = torch.Generator().manual_seed(0)
    for index in range(55):
        pixels = torch.randint(0, 256, (34, 33, 3), generator=generator, dtype=torch.uint8).numpy()
        path = root / f"class{index % 5}" / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)
    return root


@pytest.fixture(scope="module")
def table(photographs, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("table")
    files = iter(sorted(photographs.rglob("*.png")))
    for shard, count in enumerate(SHARDS):
        cells = [{"bytes": next(files).read_bytes(), "path": None} for _ in range(count)]
        # One image in each shard is none.
        cells[3]["bytes"] = b"damaged"
        column = pa.array(cells, type=pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
        features = json.dumps({"info": {"features": {"image": {"_type": "Image"}}}})
        rows = pa.table({"image": column}).replace_schema_metadata({"huggingface": features})
        pq.write_table(rows, root / f"train-{shard:05d}-of-00004.parquet", row_group_size=4)
    return root


@pytest.fixture(params=["by position", "as a stream"])
def data(request, photographs, table) -> list[str]:
    """Flags of 44 images, in files of their own or in shards."""
    if request.param == "by position":
        return ["--dataset", str(photographs)]
    return ["--dataset", str(table), *STREAMING, "--max-bad-fraction", "0.1"]


def run_all(
    plan: list[dict[str, Any]], folder: Path, succeeding: Iterable[int] | None = None
) -> list[list[list[int]]]:
    """Carry out a plan of `forked_runs.py`; exit codes by run, attempt and process."""
    file = folder / "plan.json"
    file.write_text(json.dumps(plan))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "SYNCO_HUB_HOME": str(folder)}
    script = Path(__file__).with_name("forked_runs.py")
    ended = subprocess.run([sys.executable, script, file], capture_output=True, text=True, env=environment)
    logs = "".join(Path(run["log"]).read_text()[-3000:] for run in plan if Path(run["log"]).exists())
    assert ended.returncode == 0, ended.stderr + logs
    codes: list[list[list[int]]] = json.loads(ended.stdout)
    last = [attempts[-1] for number, attempts in enumerate(codes) if succeeding is None or number in succeeding]
    assert all(code == [0] * len(code) for code in last), f"{codes}\n{logs}"
    return codes


def run(data: list[str], output: Path, deaths: list[list[Any]], processes: int = 1) -> dict[str, Any]:
    argv = [*FLAGS, *BATCH[processes], *data, "--output-dir", str(output)]
    return {"argv": argv, "deaths": deaths, "processes": processes, "log": f"{output}.log"}


def assert_same_bits(one: Path, other: Path) -> None:
    """Weights of both branches, heads, queues, BatchNorm statistics; optimizer, scheduler, random state."""
    for name in ("model.safetensors", f"checkpoint-{STEPS}/model.safetensors"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    names = sorted(path.name for path in (one / f"checkpoint-{STEPS}").glob("*.pt*"))
    assert "optimizer.pt" in names
    assert names == sorted(path.name for path in (other / f"checkpoint-{STEPS}").glob("*.pt*"))
    for name in names:
        ours, theirs = (torch.load(run / f"checkpoint-{STEPS}" / name, weights_only=False) for run in (one, other))
        assert equal(ours, theirs), name


def equal(one: Any, other: Any) -> bool:
    """Equality of nested data with tensors, bit for bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(equal(a, b) for a, b in zip(one, other, strict=True))
    return bool((one == other) if not hasattr(one, "shape") else (one == other).all())


def assert_only_whole_checkpoints(output: Path) -> None:
    checkpoints = sorted(output.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    assert [find_damage(path) for path in checkpoints] == [None] * len(checkpoints)
    # One more than the limit where the last death came between the rename and the deletion of the oldest.
    assert [path.name for path in checkpoints[-2:]] == [f"checkpoint-{STEPS - 3}", f"checkpoint-{STEPS}"]
    assert len(checkpoints) <= 3
    assert not (output / UNFINISHED).exists()


def test_kills_and_signals_end_with_the_same_bits(photographs, tmp_path):
    data = ["--dataset", str(photographs)]
    deaths = [
        [6, "torn optimizer.pt"], [10, "before target update", "SIGTERM"], [13, "after micro-batch"],
        [16, "after micro-batch", "SIGINT"], [21, "before rename"], [30, "after rename"],
    ]  # fmt: skip
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    codes = run_all([run(data, whole, []), run(data, killed, deaths)], tmp_path)
    assert codes[1] == [[-9], [143], [-9], [130], [-9], [-9], [0]]
    assert_same_bits(whole, killed)
    assert_only_whole_checkpoints(killed)
    log = (tmp_path / "killed.log").read_text()
    resumed = [int(step) for step in re.findall(r"resuming from .*checkpoint-(\d+)", log)]
    # Killed: from the last saved third step. Told to stop: from the very step.
    assert resumed == [3, 11, 12, 17, 18, 30]
    assert "stopped by SIGTERM after step 11 of 30" in log


@pytest.mark.parametrize(
    ("data", "processes"), [("by position", 1), ("as a stream", 1), ("by position", 2)], indirect=["data"]
)
def test_small_views_and_dropped_tokens_end_with_the_same_bits(data, tmp_path, processes):
    further = ["--local-crops", "3", "--local-size", "16", "--synthetic-for-local-crops"]
    # The cool-down is of 12 steps: killed before it and in it.
    further += "--token-dropout 0.5 --target-token-dropout 0.25 --token-dropout-cooldown-epochs 2".split()
    deaths = [[5, "after micro-batch"], [14, "before target update", "SIGTERM"], [27, "before rename"]]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    runs = [run([*data, *further], output, each, processes) for output, each in ((whole, []), (killed, deaths))]
    run_all(runs, tmp_path)
    assert_same_bits(whole, killed)
    assert "3 small views of 16 pixels" in (tmp_path / "killed.log").read_text()


def test_a_stream_killed_in_a_step_a_save_and_on_the_way_to_its_place_ends_with_the_same_bits(table, tmp_path):
    data = ["--dataset", str(table), *STREAMING, "--max-bad-fraction", "0.1"]
    # At checkpoint-15 half of the third epoch is to be skipped: killed at its first row, then resumed twice.
    deaths = [[6, "torn optimizer.pt"], [16, "after micro-batch"], [15, "row of a stream"], [15, "before micro-batch"]]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    codes = run_all([run(data, whole, []), run(data, killed, deaths)], tmp_path)
    assert codes[1] == [[-9], [-9], [-9], [-9], [0]]
    assert_same_bits(whole, killed)
    log = (tmp_path / "killed.log").read_text()
    assert [int(step) for step in re.findall(r"resuming from .*checkpoint-(\d+)", log)] == [3, 15, 15, 15]
    for output in (whole, killed):
        summary = json.loads((output / "pretraining_summary.json").read_text())
        assert summary["skipped_files"] == [f"train-0000{shard}-of-00004.parquet, row 3" for shard in range(4)]
    assert "4 of 44 images cannot be read: train-00000-of-00004.parquet, row 3, " in log


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_when_the_stream_of_one_process_breaks_off_all_stop_after_the_same_step_with_it_saved(table, tmp_path):
    data = ["--dataset", str(table), *STREAMING, "--max-bad-fraction", "0.1", "--stream-retries", "0"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    again = {**run(data, broken, [], 2), "argv": [*run(data, broken, [], 2)["argv"], "--resume"]}
    plan = [
        run(data, whole, [], 2),
        {**run(data, broken, [], 2), "breaks": [1, 2, 7]},
        # The place lies within an epoch, and one process would see other rows next.
        {**again, "argv": [*again["argv"], *BATCH[1]], "processes": 1},
        again,
    ]
    codes = run_all(plan, tmp_path, succeeding=(0, 3))
    assert codes == [[[0, 0]], [[1, 1]], [[1]], [[0, 0]]]
    log = (tmp_path / "broken.log").read_text()
    assert "train-00002-of-00004.parquet cannot be read beyond row 7 (ConnectionResetError" in log
    steps = {int(step) for step in re.findall(r"Stopped after step (\d+) of 30; saved", log)}
    assert len(steps) == 1
    assert len(re.findall("the stream of another process broke off", log)) == 1
    step = steps.pop()
    assert f"resuming from {broken / f'checkpoint-{step}'}" in log
    assert "processes was 2 and is 1" in log
    assert_same_bits(whole, broken)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("processes", [1, 2])
def test_ten_kills_at_random_moments_end_with_the_same_bits(data, tmp_path, processes):
    generator = random.Random(processes)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run_all([run(data, whole, [], processes)], tmp_path)
    moments = torch.load(whole / "state-0.pt")["moments"]
    during_a_save = [moment for moment in moments if moment[1] in SAVING]
    # At the epoch's boundary, at both ends of the synthesis window, during a save, and anywhere.
    chosen = [
        [5, "after target update"],
        [6, "before micro-batch"],
        [2, "after micro-batch"],
        [19, "after micro-batch"],
    ]
    chosen += [list(moment) for moment in generator.sample(during_a_save, 3)]
    chosen += [list(moment) for moment in generator.sample(moments, 3)]
    deaths = sorted(chosen, key=lambda moment: moment[0])
    codes = run_all([run(data, killed, deaths, processes)], tmp_path)
    assert [attempt[0] for attempt in codes[0]] == [-9] * 10 + [0], deaths
    assert_same_bits(whole, killed)
    assert_only_whole_checkpoints(killed)
    states = [torch.load(killed / f"state-{rank}.pt")["model"] for rank in range(processes)]
    queues = [{name: value for name, value in state.items() if "queue" in name} for state in states]
    assert queues[0]
    assert all(equal(queues[0], other) for other in queues)
