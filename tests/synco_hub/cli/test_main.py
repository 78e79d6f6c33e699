import subprocess
import sys

import pytest
from typer.testing import CliRunner

from synco_hub.cli.main import app, main
from synco_hub.version import __version__

COMMANDS = [
    ["demo"],
    ["list"],
    ["evaluate", "knn"],
    ["evaluate", "retrieval"],
    ["evaluate", "video-segmentation"],
    ["evaluate", "discovery"],
    ["evaluate", "robustness"],
    ["evaluate", "ood"],
    ["evaluate", "adversarial"],
    ["robustness-demo"],
    ["attention"],
    ["pull"],
    ["publish"],
    ["publish-space"],
    ["card"],
    ["card", "verify"],
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_has_an_example(command):
    result = CliRunner().invoke(app, [*command, "--help"])
    assert result.exit_code == 0
    assert f"Example: synco-hub {' '.join(command)}" in " ".join(result.output.split())


def test_version_and_bare_call():
    assert CliRunner().invoke(app, ["--version"]).output.strip() == __version__
    assert "pretrain" in CliRunner().invoke(app, []).output


def test_help_needs_no_torch():
    code = (
        "import sys; from typer.testing import CliRunner; from synco_hub.cli.main import app; "
        "CliRunner().invoke(app, ['evaluate', 'knn', '--help']); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_errors_are_one_line_and_debug_shows_the_traceback(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path))
    monkeypatch.setenv("SYNCO_HUB_DEBUG", "")
    for argv, traceback in ([["attention"], False], [["--debug", "attention"], True]):
        flags = ["--model", "nothing", "--image", str(tmp_path / "no.png")]
        monkeypatch.setattr(sys, "argv", ["synco-hub", *argv, *flags])
        with pytest.raises(SystemExit) as exit_info:
            main()
        error = capsys.readouterr().err
        assert exit_info.value.code == 1
        assert error.splitlines()[-1].startswith("error: ")
        assert ("Traceback" in error) is traceback
