"""`synco-hub evaluate` of one protocol, as a user calls it."""

import subprocess

from command_line import invoke

from synco_hub.results import EvaluationResult
from trainers.step_time import main


def test_use_and_training_end_in_one_result(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda command, check: main(command[3:]))
    output = tmp_path / "efficiency.json"
    arguments = [
        "evaluate",
        "efficiency",
        "--backbone",
        "vit-nano",
        "--methods",
        "moby, synco-v2",
        "--batch-size",
        "2",
    ]
    arguments += ["--repeats", "1", "--device", "cpu", "--output", str(output)]
    outcome = invoke(arguments)
    assert outcome.exit_code == 0
    result = EvaluationResult.load(output, "efficiency")
    assert {"images_per_second", "gflops_per_image", "train_moby_minutes_per_imagenet_epoch"} <= result.metrics.keys()
    assert "train_synco-v2_synthesis_overhead_percent" in result.metrics
    assert result.protocol.parameters["train_moby"]["batch_size"] == 2
    assert "hours_300_epochs" in outcome.output
