"""A signal to the whole process group, as Slurm, `timeout` and Ctrl-C send it, ends a real run with a checkpoint."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from synco_hub.models import SynCoConfig, SynCoModel, image_processor
from trainers.runs.checkpoints import find_damage

# Never at its end before the signal comes; each worker holds batches of its own then.
COMMON = (
    "--use-cpu --dataloader-num-workers 2 --disable-tqdm true --per-device-train-batch-size 4 --logging-steps 1 "
    "--save-strategy no --max-steps 100000"
).split()
PRETRAINING = (
    "--backbone vit-nano --depth 1 --embed-dim 32 --num-heads 2 --queue-size 20 --num-hard-negatives 4 "
    "--projection-hidden-dim 16 --projection-dim 8"
).split()
FRACTALS = ["--dataset", "fractals:num_classes=2,train_images_per_class=40,test_images_per_class=4"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("group")
    SynCoModel(SynCoConfig(backbone="vit-nano", depth=1)).save_pretrained(root / "model")
    image_processor(32).save_pretrained(root / "model")
    (root / "table").mkdir()
    file = io.BytesIO()
    Image.effect_noise((34, 33), 60).convert("RGB").save(file, "PNG")
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = pa.array([{"bytes": file.getvalue(), "path": None}] * 40, type=kind)
    features = json.dumps({"info": {"features": {"image": {"_type": "Image"}}}})
    for shard in range(2):
        rows = pa.table({"image": cells}).replace_schema_metadata({"huggingface": features})
        pq.write_table(rows, root / "table" / f"train-{shard}.parquet")
    return root


def planned(folder: Path, name: str, module: str, number: str, *flags: str) -> dict[str, Any]:
    argv = [*COMMON, *flags, "--output-dir", str(folder / name)]
    return {
        "module": module, "argv": argv, "log": str(folder / f"{name}.log"), "signal": number, "until": "'loss'",
    }  # fmt: skip


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "SYNCO_HUB_HOME": str(folder)}


def assert_stopped_with_a_checkpoint(output: Path, log: str, name: str) -> None:
    assert f"stopped by {name}" in log, log
    assert "error:" not in log, log
    (checkpoint,) = output.glob("checkpoint-*")
    assert find_damage(checkpoint) is None


def test_every_command_saves_and_stops(folder):
    labelled = ["--model", str(folder / "model"), *FRACTALS]
    plan = [
        planned(folder, "term", "trainers.pretrain", "SIGTERM", *PRETRAINING, *FRACTALS),
        planned(folder, "int", "trainers.pretrain", "SIGINT", *PRETRAINING, *FRACTALS),
        planned(
            folder, "stream", "trainers.pretrain", "SIGTERM", *PRETRAINING, "--streaming", "--dataset",
            str(folder / "table"), "--shuffle-buffer", "5",
        ),
        planned(folder, "probe", "trainers.linear_probe", "SIGTERM", *labelled),
        planned(folder, "tuned", "trainers.fine_tune", "SIGTERM", *labelled),
    ]  # fmt: skip
    (folder / "plan.json").write_text(json.dumps(plan))
    script = Path(__file__).with_name("group_runs.py")
    ended = subprocess.run(
        [sys.executable, script, folder / "plan.json"], capture_output=True, text=True, env=environment(folder)
    )
    logs = [Path(run["log"]).read_text()[-2000:] for run in plan if Path(run["log"]).exists()]
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == [143, 130, 143, 143, 143], "\n".join(logs)
    for run, log in zip(plan, logs, strict=True):
        assert_stopped_with_a_checkpoint(Path(run["log"]).with_suffix(""), log, run["signal"])


def test_several_processes_save_and_stop(folder):
    """As a user types it; `timeout` sends its signal to the command, and to the group that it is in."""
    output, log = folder / "several", folder / "several.log"
    command = [sys.executable, "-m", "synco_hub.cli", "pretrain", "--num-processes", "2", *COMMON, *PRETRAINING]
    with log.open("w") as stream:
        started = subprocess.Popen(
            [*command, *FRACTALS, "--output-dir", str(output)],
            stdout=stream, stderr=stream, env=environment(folder), start_new_session=True,
        )  # fmt: skip
    give_up = time.monotonic() + 200
    while "'loss'" not in log.read_text() and started.poll() is None and time.monotonic() < give_up:
        time.sleep(0.05)
    started.send_signal(signal.SIGTERM)
    os.killpg(started.pid, signal.SIGTERM)
    assert started.wait(60) == 143, log.read_text()
    assert_stopped_with_a_checkpoint(output, log.read_text(), "SIGTERM")
