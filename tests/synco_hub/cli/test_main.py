import subprocess
import sys

import pytest
from command_line import invoke

from synco_hub.cli.main import COMMANDS, GROUPS, build_parser, main
from synco_hub.protocols import EVALUATORS, resolve
from synco_hub.version import __version__

OWN = [name for name, command in COMMANDS.items() if command.options]


@pytest.mark.parametrize("name", OWN)
def test_every_help_says_what_it_does_lists_the_flags_and_has_an_example(name):
    ended = invoke([*name.split(), "--help"])
    assert ended.exit_code == 0
    shown = " ".join(ended.output.split())
    assert shown.startswith(f"usage: synco-hub {name} ")
    assert f"Example: synco-hub {name.removesuffix(' write')} " in shown
    assert " ".join(COMMANDS[name].summary.split()) in shown
    for option in build_parser(name)._actions:
        assert option.help, option
        if option.option_strings:
            assert option.option_strings[-1] in ended.output


@pytest.mark.parametrize("name", OWN)
def test_every_example_is_a_command_that_is_understood(name):
    program, *words = COMMANDS[name].example.split()
    assert program == "synco-hub"
    place = len(name.split()) if " ".join(words).startswith(name) else 1
    build_parser(name).parse(words[place:])


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_function(name):
    assert callable(resolve(COMMANDS[name].function))


def test_every_protocol_is_a_command():
    assert {f"evaluate {name}" for name in EVALUATORS} | {"evaluate all"} == {
        name for name in COMMANDS if name.startswith("evaluate ")
    }


@pytest.mark.parametrize("group", ["", *GROUPS])
def test_a_group_lists_its_commands_a_line_each(group):
    words = group.split()
    shown, bare = invoke([*words, "--help"]), invoke(words)
    assert (shown.exit_code, bare.exit_code) == (0, 2)
    assert shown.output == bare.output
    lines = [" ".join(line.split()) for line in shown.output.splitlines()]
    own = {name: row for name, row in COMMANDS.items() if name.startswith(group)}
    for name, row in own.items():
        line = f"{name.removeprefix(group).strip()} {' '.join(row.summary.splitlines()[0].split())}"
        assert lines.count(line) == 1
    assert f"Example: synco-hub {group}" in " ".join(shown.output.split())


def test_version():
    assert invoke(["--version"]).output.strip() == __version__


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["evalute"], "Did you mean 'evaluate'"),
        (["pretrian", "--method", "moby"], "Did you mean 'pretrain'"),
        (
            ["evaluate", "knnn"],
            "'evaluate knnn': `synco-hub evaluate --help` lists them. Did you mean 'knn'?",
        ),
        (["data", "xyz"], "no command 'data xyz': `synco-hub data --help` lists them."),
        (["list", "--jsn"], "--jsn: not understood; --help shows every flag"),
        (["list", "--js"], "--js: not understood"),
        (["convert"], "required: SOURCE, --output"),
        (["convert", "x", "--output", "y", "--num-heads", "0"], "--num-heads 0: give at least 1"),
        (["convert", "x", "--output", "y", "--image-size", "big"], "--image-size: invalid int value: 'big'"),
        (["attention", "--model", "m", "--image", "i", "--detail", "5"], "--detail 5: give a number from 1 to 4"),
        (["attention", "--model", "m", "--image", "i", "--strength", "1.5"], "--strength 1.5: give"),
        (["card", "verify", "x", "--tolerance", "-1"], "--tolerance -1.0: give at least 0"),
        (["results", "table", "x", "--format", "xml"], "invalid choice: 'xml'"),
        (["ablate", "--probe", "half"], "invalid choice: 'half'"),
        (["evaluate", "knn", "--batch-size", "0"], "batch_size=0: a batch holds at least 1 image"),
        (["evaluate", "knn", "--precision", "int8"], "invalid choice: 'int8'"),
        (["evaluate", "classification"], "required: --model"),
        (["evaluate", "discovery", "--data-dir", "x"], "--model is missing: give the model"),
        (["evaluate", "knn", "--modell", "x"], "what it takes. Did you mean '--model'"),
    ],
)
def test_what_there_is_not_is_one_line_and_exit_code_2(words, said):
    ended = invoke(words)
    assert ended.exit_code == 2
    assert said in str(ended.exception)
    assert "\n" not in str(ended.exception)


def test_help_needs_no_torch_and_says_errors_on_standard_error():
    code = (
        "import sys; from synco_hub.cli.main import run\n"
        "try:\n    run(['evaluate', 'knn', '--help'])\n"
        "finally:\n    print({'torch', 'datasets', 'timm', 'matplotlib'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
    wrong = subprocess.run([sys.executable, "-m", "synco_hub.cli", "nothing"], capture_output=True, text=True)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "error: there is no command 'nothing': `synco-hub --help` lists them.\n"


def test_list_needs_no_torch(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path))
    code = "import sys; from synco_hub.cli.main import run; run(['list']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize("place", [0, 1, 5])
def test_errors_are_one_line_and_debug_shows_the_traceback(monkeypatch, capsys, tmp_path, place):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path))
    monkeypatch.setenv("SYNCO_HUB_DEBUG", "")
    words = ["attention", "--model", "nothing", "--image", str(tmp_path / "no.png")]
    for argv, traceback in ([words, False], [[*words[:place], "--debug", *words[place:]], True]):
        monkeypatch.setattr(sys, "argv", ["synco-hub", *argv])
        with pytest.raises(SystemExit) as exit_info:
            main()
        error = capsys.readouterr().err
        assert exit_info.value.code == 1
        assert error.splitlines()[-1].startswith("error: ")
        assert ("Traceback" in error) is traceback
