import json
import subprocess
import sys
from dataclasses import dataclass

import pytest

from trainers import command as command_module
from trainers import fine_tune, linear_probe, pretrain
from trainers.classification.settings import LabelledDataArguments
from trainers.command import Command, drop_flags, list_flags, parse_flags, recall_flags, split_flags, tell_left_out

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


@pytest.mark.parametrize(
    ("module", "word", "meant"),
    [
        ("pretrain", "--epochs", "--num-train-epochs"),
        ("fine-tune", "--epochs=3", "--num-train-epochs"),
        ("linear-probe", "--batch-size", "--per-device-train-batch-size"),
        ("pretrain", "--lr", "--learning-rate"),
        ("pretrain", "--workers", "--dataloader-num-workers"),
    ],
)
def test_what_other_programs_call_a_flag_leads_to_ours(module, word, meant, capsys, tmp_path):
    with pytest.raises(SystemExit):
        COMMANDS[module].main(
            [word, "3", "--output-dir", str(tmp_path), "--use-cpu", *(["--model", "x"] * (module != "pretrain"))]
        )
    assert capsys.readouterr().err.strip().endswith(f"is not a flag of this command. Did you mean '{meant}'?")


@pytest.mark.parametrize("name", COMMANDS)
def test_no_run_is_written_where_nobody_said(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        COMMANDS[name].main(["--dataset", "fractals", "--use-cpu", *(["--model", "x"] * (name != "pretrain"))])
    assert capsys.readouterr().err.startswith("error: --output-dir is missing: name the folder")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", COMMANDS)
def test_the_short_help_begins_with_what_most_calls_need(name, capsys):
    COMMANDS[name].main(["--help"])
    text = capsys.readouterr().out
    group = text.split("what most calls need:")[1].split("\n\n")[0]
    flags = [line.split()[0] for line in group.splitlines() if line.startswith("  --")]
    assert flags == [f"--{flag.replace('_', '-')}" for flag in COMMANDS[name].COMMAND.first]
    assert "--resume" in flags
    # Flags that are as they must be are for the long help.
    assert "--remove-unused-columns" not in text
    COMMANDS[name].main(["--help-all"])
    assert "--remove-unused-columns" in capsys.readouterr().out


def test_a_command_line_is_taken_apart():
    words = ["--a", "1", "2", "--b=x=y", "--num_mixup", "-3", "--resume"]
    assert split_flags(words) == {"a": ["1", "2"], "b": ["x=y"], "num_mixup": ["-3"], "resume": []}
    assert drop_flags(words, ["a", "num_mixup"]) == ["--b=x=y", "--resume"]


def test_a_resumed_run_is_told_what_it_was_started_with(tmp_path, caplog):
    file = tmp_path / "settings.json"
    flags = ["--queue-size", "8", "--max-steps", "4", "--learning-rate=0.1"]
    base = ["--output-dir", str(tmp_path)]
    # Nothing to go on with: a restarted job says which run is to begin, a slip of the pen does not.
    assert recall_flags([*base, "--resume", "--backbone", "vit-nano"], file.name) == []
    for more in ([], ["--max-steps", "9"]):
        with pytest.raises(
            ValueError, match=r"--resume: there is no run in .*check --output-dir, or describe the run"
        ):
            recall_flags([*base, "--resume", *more], file.name)
    assert recall_flags(base, file.name) == []
    file.write_text(json.dumps({"flags": flags}))
    for resume in (["--resume"], ["--resume=true"], ["--resume", "True"]):
        assert recall_flags([*base, *resume], file.name) == flags
    for not_resumed in ([], ["--resume", "false"], ["--resume=False"]):
        assert recall_flags([*base, *not_resumed], file.name) == []
    # Who names the data describes the run anew; a flag that another would beat is not beaten by an old one.
    assert recall_flags([*base, "--resume", "--dataset", "x"], file.name) == []
    assert recall_flags([*base, "--resume", "--num-train-epochs", "2"], file.name) == ["--queue-size", "8", flags[-1]]
    assert recall_flags([*base, "--resume", "--base_learning_rate=1"], file.name) == flags[:-1]
    file.write_text("{}")
    assert recall_flags([*base, "--resume"], file.name) == []
    assert "of an earlier version" in caplog.text


def test_a_data_set_named_anew_says_what_it_leaves_out(tmp_path, caplog):
    file = tmp_path / "settings.json"
    words = ["--output-dir", str(tmp_path), "--dataset", "x", "--resume"]
    tell_left_out(words, words, file.name)
    file.write_text(
        json.dumps(
            {
                "flags": [
                    "--dataset",
                    "w",
                    "--queue_size",
                    "4",
                    "--queue-size",
                    "8",
                    "--max-steps=3",
                    "--save-steps",
                    "4",
                ]
            }
        )
    )
    tell_left_out([word for word in words if word != "--resume"], words, file.name)
    tell_left_out(words, [*words, "--queue_size=9", "--max-steps", "3"], file.name)
    tell_left_out([*words, "--num-train-epochs", "2"], [*words, "--queue-size", "8"], file.name)
    assert not caplog.messages
    tell_left_out(words, words, file.name)
    assert "it was also started with --queue-size 8 --max-steps 3: give that too" in caplog.text


@pytest.mark.parametrize(("ending", "code"), [(None, 0), (SystemExit(143), 143), (SystemExit(1), 1)])
@pytest.mark.parametrize("several", [False, True])
def test_a_program_ends_with_the_code_of_what_it_ran(ending, code, several, monkeypatch):
    left = []

    def run(self):
        if ending is not None:
            raise ending

    monkeypatch.setattr(Command, "main", run)
    monkeypatch.setattr(command_module, "_is_one_of_several_processes", lambda: several)
    monkeypatch.setattr(command_module.os, "_exit", left.append)
    monkeypatch.setattr(command_module.logging, "shutdown", lambda: None)
    with pytest.raises(SystemExit) as ended:  # what would end the process has been replaced
        pretrain.COMMAND.run_as_program()
    assert ended.value.code == code
    assert left == ([code] if several else [])
