import subprocess
import sys
from dataclasses import dataclass

import pytest

from trainers import fine_tune, linear_probe, pretrain
from trainers.classification.settings import LabelledDataArguments
from trainers.command import Command, list_flags, parse_flags

COMMANDS = {"pretrain": pretrain, "linear-probe": linear_probe, "fine-tune": fine_tune}


@dataclass
class Settings:
    rate: float = 0.5


KINDS = (Settings,)


def run(flags: list[str]) -> None:
    (settings,) = parse_flags(KINDS, flags)
    if settings.rate > 1:
        raise ValueError("the rate is too high")
    print(f"rate {settings.rate}")


def command(run: str) -> Command:
    return Command("synco-hub nothing", "Does nothing.\n\nMore.", "synco-hub nothing", KINDS, f"{__name__}:KINDS", run)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_names_our_flags_once_and_where_the_others_are(name, capsys):
    module = COMMANDS[name]
    module.main(["--help"])
    text = capsys.readouterr().out
    about = (module.__doc__ or "").split("\n", 1)[0].split("(")[0]
    assert text.startswith(f"usage: synco-hub {name} --output-dir FOLDER [--flag value ...]\n\n{about[:60]}")
    assert f"example: synco-hub {name}" in text
    assert "--help-all also lists" in text
    assert "--output-dir" in text.split("options:")[1]
    # One spelling, and nothing that only transformers knows.
    assert "--output_dir" not in text
    assert "--hub-model-id" not in text
    if name == "pretrain":
        assert text.index("--method") < text.index("--backbone") < text.index("--num-train-epochs")
        assert "--num-hard-negatives" in text
        assert "--num-processes" in text


@pytest.mark.parametrize("name", COMMANDS)
def test_the_long_help_has_the_flags_of_transformers_too(name, capsys):
    COMMANDS[name].main(["--help-all"])
    text = capsys.readouterr().out
    assert text.startswith(f"usage: synco-hub {name}")
    for flag in ("--output-dir", "--hub-model-id", "--weight-decay", "--resume"):
        assert flag in text


@pytest.mark.parametrize("module", ["pretrain", "linear_probe", "fine_tune"])
def test_help_needs_no_torch(module):
    script = (
        f"import sys; from trainers import {module}; {module}.main(['--help']); "
        "sys.exit('torch' in sys.modules or 'datasets' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def test_an_unknown_flag_names_the_nearest():
    with pytest.raises(ValueError, match=r"--splitseed is not a flag.*'--split-seed'"):
        parse_flags((LabelledDataArguments,), ["--model", "x", "--splitseed", "3"])
    (arguments,) = parse_flags((LabelledDataArguments,), ["--model", "x", "--split-seed", "3"])
    assert (arguments.model, arguments.split_seed) == ("x", 3)
    assert {"model", "split_seed", "dataset"} <= set(list_flags((LabelledDataArguments,)))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rate", "three"], "--rate: invalid float value: 'three'; --help shows"),
        (["--rate"], "--rate: expected one argument; --help shows"),
        (["--rate", "2"], "the rate is too high"),
        (["--speed", "2"], "--speed is not a flag of this command."),
    ],
)
def test_a_command_fails_in_one_line(capsys, flags, message):
    with pytest.raises(SystemExit) as stopped:
        command(f"{__name__}:run").main(flags)
    assert stopped.value.code == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert message in printed.err
    assert printed.err.count("\n") == 1


def test_a_command_runs_what_it_names(capsys):
    command(f"{__name__}:run").main(["--rate", "0.25"])
    assert capsys.readouterr().out == "rate 0.25\n"
