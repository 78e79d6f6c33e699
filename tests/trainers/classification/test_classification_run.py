import json
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from trainers.classification.classification_arguments import LabelledDataArguments
from trainers.classification.classification_run import SETTINGS_FILE, claim_run, parse_flags, run_command


def test_a_directory_belongs_to_one_run(tmp_path):
    settings = {"model": "a", "rates": (1.0, 2.0)}
    claim_run(tmp_path / "run", settings, resume=False)
    assert json.loads((tmp_path / "run" / SETTINGS_FILE).read_text())["rates"] == [1.0, 2.0]
    claim_run(tmp_path / "run", settings, resume=True)
    # Stopped before its first checkpoint, a run may begin again.
    claim_run(tmp_path / "run", settings, resume=False)
    (tmp_path / "run" / "checkpoint-3").mkdir()
    with pytest.raises(ValueError, match="add --resume"):
        claim_run(tmp_path / "run", settings, resume=False)
    with pytest.raises(ValueError, match="model was 'a' and is now 'b'"):
        claim_run(tmp_path / "run", {**settings, "model": "b"}, resume=True)
    (tmp_path / "other" / "checkpoint-3").mkdir(parents=True)
    with pytest.raises(ValueError, match="of another program"):
        claim_run(tmp_path / "other", settings, resume=True)


def test_flags_become_dataclasses_and_an_unknown_one_names_the_nearest():
    (arguments,) = parse_flags((LabelledDataArguments,), ["--model", "x", "--split-seed", "3"], "p", "d\n", "e")
    assert (arguments.model, arguments.split_seed) == ("x", 3)
    with pytest.raises(ValueError, match=r"--splitseed is not a flag.*--split-seed|--splitseed is not a flag"):
        parse_flags((LabelledDataArguments,), ["--model", "x", "--splitseed", "3"], "p", "d\n", "e")


@dataclass
class Settings:
    rate: float = 0.5


def test_a_command_prints_its_metrics_and_fails_in_one_line(capsys, caplog):
    def measure(data: LabelledDataArguments, arguments: Settings) -> SimpleNamespace:
        if arguments.rate > 1:
            raise ValueError("the rate is too high")
        return SimpleNamespace(metrics={f"top1 of {data.model}": 100 * arguments.rate})

    run_command(measure, Settings, ["--model", "x", "--rate", "0.25"], "p", "d\n", "e")
    assert caplog.messages == [f"  {'top1 of x':<32}  25.00 %"]
    for flags, line in ((["--rate", "2"], "the rate is too high"), (["--speed", "2"], "--speed is not a flag")):
        with pytest.raises(SystemExit) as stopped:
            run_command(measure, Settings, ["--model", "x", *flags], "p", "d\n", "e")
        assert stopped.value.code == 1
        assert capsys.readouterr().err.startswith(f"error: {line}")
