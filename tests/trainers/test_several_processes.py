"""Two processes with half the batch each do what one does with the whole batch."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from synco_hub.models import SynCoConfig, SynCoModel, image_processor
from trainers import several_processes
from trainers.pretraining_model import SynCoForPreTraining
from trainers.runs.checkpoints import find_damage, read_manifest

# Plain gradient descent: Adam would turn the last bit of a gradient that should be zero into a whole step.
FLAGS = (
    "--method moby --backbone vit-nano --depth 1 --embed-dim 32 --num-heads 2 --queue-size 20 --num-hard-negatives 4 "
    "--projection-hidden-dim 16 --projection-dim 8 --head-norm none --online-drop-path-rate 0.0 --optim sgd "
    "--learning-rate 0.05 --dataloader-num-workers 0 --use-cpu --max-steps 8 --logging-steps 4 --save-strategy steps "
    "--save-steps 4 --disable-tqdm true --seed 3"
).split()


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """One process, two processes, and two that die, are refused another batch, and are continued by one."""
    root = tmp_path_factory.mktemp("runs")
    generator = torch.Generator().manual_seed(1)
    for index in range(50):
        pixels = torch.randint(0, 256, (34, 33, 3), generator=generator, dtype=torch.uint8).numpy()
        path = root / "photographs" / f"class{index % 5}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)

    def planned(output: str, processes: int, batch: int, *flags: str, **more: Any) -> dict[str, Any]:
        argv = [*FLAGS, "--dataset", str(root / "photographs"), "--output-dir", str(root / output)]
        argv += ["--per-device-train-batch-size", str(batch), *flags]
        return {"argv": argv, "processes": processes, "log": str(root / f"{output}.log"), **more}

    plan = [
        planned("one", 1, 8),
        planned("two", 2, 4),
        planned("changing", 2, 4, deaths=[[6, "before micro-batch"]], left_dead=True),
        planned("changing", 1, 4, "--resume", left_dead=True, deaths=[None]),
        planned("changing", 1, 8, "--resume"),
    ]
    (root / "plan.json").write_text(json.dumps(plan))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "SYNCO_HUB_HOME": str(root)}
    script = Path(__file__).with_name("forked_runs.py")
    ended = subprocess.run(
        [sys.executable, script, root / "plan.json"], capture_output=True, text=True, env=environment
    )
    logs = "".join(path.read_text()[-2000:] for path in root.glob("*.log"))
    assert ended.returncode == 0, ended.stderr + logs
    one, two, killed, refused, continued = json.loads(ended.stdout)
    assert (one, two, refused, continued) == ([[0]], [[0, 0]], [[1]], [[0]]), logs
    # The rank that lives a moment longer may notice that the other is gone before its own turn comes.
    assert -9 in killed[0], logs
    assert 0 not in killed[0], logs
    return root


def state(runs: Path, name: str, rank: int = 0) -> dict[str, torch.Tensor]:
    values: dict[str, torch.Tensor] = torch.load(runs / name / f"state-{rank}.pt")["model"]
    return values


def test_two_processes_equal_one_with_the_whole_batch(runs):
    one, two = state(runs, "one"), state(runs, "two")
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(
            two[name], value, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
    start = SynCoForPreTraining.from_pretrained(runs / "one" / "checkpoint-4").state_dict()
    weight = "synco.backbone.blocks.0.attn.qkv.weight"
    assert float((start[weight] - one[weight]).abs().max()) > 1e-3


def test_every_rank_holds_the_same_bits(runs):
    first, second = state(runs, "two", 0), state(runs, "two", 1)
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    assert {"queue_1.keys", "queue_2.keys", "queue_1.position"} <= first.keys()
    assert int(first["queue_1.position"]) == 8 * 8 % 20


def test_every_process_has_its_own_random_state_in_the_checkpoint(runs):
    checkpoint = runs / "two" / "checkpoint-8"
    one, two = (torch.load(checkpoint / f"rng_state_{rank}.pth", weights_only=False)["cpu"] for rank in (0, 1))
    assert not torch.equal(one, two)
    assert not (checkpoint / "rng_state.pth").exists()


def test_another_number_of_processes_continues_with_the_same_global_batch_only(runs):
    log = (runs / "changing.log").read_text()
    assert "global_batch_size=8 and is now to be continued with global_batch_size=4" in log
    assert "world_size was 2, is 1" in log
    one, changing = state(runs, "one"), state(runs, "changing")
    for name, value in one.items():
        torch.testing.assert_close(changing[name], value, rtol=1e-5, atol=1e-5)


def launch_without_gpu(command: list[str], output: Path) -> str:
    """What a run said, whose processes see no GPU and are not told to use none."""
    environment = {
        **os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "SYNCO_HUB_HOME": str(output.parent),
    }  # fmt: skip
    command = [sys.executable, "-m", *command, "--output-dir", str(output)]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert ended.returncode == 0, ended.stderr
    assert "2 processes train together on the CPU" in ended.stderr
    assert ended.stdout.count("train_runtime") == 1
    return ended.stderr


DRAWN = "fractals:num_classes=2,train_images_per_class=9,test_images_per_class=4"


def test_without_a_gpu_processes_train_together_and_need_no_flag(tmp_path):
    flags = [flag for flag in FLAGS if flag != "--use-cpu"]
    command = ["synco_hub.cli", "pretrain", "--num-processes", "2", *flags, "--dataset", DRAWN]
    launch_without_gpu([*command, "--per-device-train-batch-size", "2"], tmp_path / "run")
    settings = json.loads((tmp_path / "run" / "pretraining_settings.json").read_text())
    assert settings["training"]["world_size"] == 2
    assert find_damage(tmp_path / "run" / "checkpoint-8") is None
    assert read_manifest(tmp_path / "run" / "checkpoint-8")["world_size"] == 2


@pytest.mark.parametrize("protocol", ["linear_probe", "fine_tune"])
def test_classifiers_too(protocol, tmp_path):
    SynCoModel(SynCoConfig(backbone="vit-nano", depth=1)).save_pretrained(tmp_path / "model")
    image_processor(32).save_pretrained(tmp_path / "model")
    command = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", f"trainers.{protocol}"]
    command += ["--model", str(tmp_path / "model"), "--dataset", DRAWN, "--per-device-train-batch-size", "3"]
    command += ["--max-steps", "2", "--disable-tqdm", "true", "--dataloader-num-workers", "0"]
    assert launch_without_gpu(command, tmp_path / "run").count("top1_last_epoch") == 1
    settings = json.loads((tmp_path / "run" / "classification_settings.json").read_text())
    assert settings["global_batch_size"] == 6


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_both_launchers_train_on_a_stream_and_continue_it(tmp_path):
    """The command with --num-processes and plain torchrun, as a user types them."""
    generator = torch.Generator().manual_seed(2)
    (tmp_path / "table").mkdir()
    for shard in range(2):
        cells = []
        for _ in range(12):
            pixels = torch.randint(0, 256, (34, 33, 3), generator=generator, dtype=torch.uint8).numpy()
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "PNG")
            cells.append({"bytes": file.getvalue(), "path": None})
        features = json.dumps({"info": {"features": {"image": {"_type": "Image"}}}})
        column = pa.array(cells, type=pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
        rows = pa.table({"image": column}).replace_schema_metadata({"huggingface": features})
        pq.write_table(rows, tmp_path / "table" / f"train-{shard}.parquet")
    flags = [*FLAGS, "--dataset", str(tmp_path / "table"), "--streaming", "--shuffle-buffer", "5"]
    flags += ["--per-device-train-batch-size", "2"]
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "trainers.pretrain"]
    launchers = {
        "command": [sys.executable, "-m", "synco_hub.cli", "pretrain", "--num-processes", "2"],
        "torchrun": [sys.executable, "-m", *torchrun],
    }
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}

    def launch(name: str, *more: str) -> str:
        argv = [*launchers[name], *flags, "--output-dir", str(tmp_path / name), *more]
        ended = subprocess.run(argv, capture_output=True, text=True, env=environment)
        assert ended.returncode == 0, [line for line in ended.stderr.splitlines() if "error" in line]
        return ended.stderr

    launch("command")
    launch("torchrun")
    shutil.rmtree(tmp_path / "torchrun" / "checkpoint-8")
    assert "resuming from" in launch("torchrun", "--resume")
    one, other = (tmp_path / name / "model.safetensors" for name in launchers)
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    ("exit_code", "code", "said"),
    [(1, 1, ""), (143, 143, ""), (-9, 137, "error: process 1 was ended by SIGKILL"), (-11, 139, "SIGSEGV")],
)
def test_the_launcher_ends_as_the_process_that_failed_first(exit_code, code, said, tmp_path, monkeypatch, capsys):
    launched = []

    def launch(argv: list[str]) -> None:
        launched.append(argv)
        failures = {
            rank: ProcessFailure(local_rank=rank, pid=9, exitcode=number, error_file=str(tmp_path / "none"))
            for rank, number in ((0, -15), (1, exit_code))
        }
        failures[0].timestamp = failures[1].timestamp + 1
        raise ChildFailedError("trainers.pretrain", failures)

    monkeypatch.setattr(several_processes, "launch", launch)
    with pytest.raises(SystemExit) as ended:
        several_processes.main(["2", "--output-dir", "a b"])
    assert ended.value.code == code
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == bool(said)
    expected = ["--standalone", "--nproc-per-node", "2", "--module", "trainers.pretrain", "--output-dir", "a b"]
    assert launched == [expected]


def test_a_signal_to_the_launcher_is_its_exit_code(monkeypatch):
    def launch(argv: list[str]) -> None:
        raise SignalException("stopped", 15)

    monkeypatch.setattr(several_processes, "launch", launch)
    with pytest.raises(SystemExit) as ended:
        several_processes.main(["2"])
    assert ended.value.code == 143


@pytest.mark.slow
def test_what_the_first_process_refuses_is_one_line_for_all(tmp_path):
    (tmp_path / "run" / "checkpoint-4").mkdir(parents=True)
    command = [sys.executable, "-m", "synco_hub.cli", "pretrain", "--num-processes", "2", *FLAGS]
    command += ["--dataset", "fractals:num_classes=2,train_images_per_class=9", "--output-dir", str(tmp_path / "run")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "SYNCO_HUB_HOME": str(tmp_path / "home")}
    ended = subprocess.run(
        [*command, "--per-device-train-batch-size", "2"], capture_output=True, text=True, env=environment
    )
    assert ended.returncode == 1
    assert [line for line in ended.stderr.splitlines() if "error" in line.lower()] == [
        f"error: {tmp_path / 'run'} holds checkpoints but no pretraining_settings.json, so they are not a run of this "
        "program: choose another --output-dir."
    ]
    assert "Traceback" not in ended.stderr
