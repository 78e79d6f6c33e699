import pytest

from synco_hub.command_errors import DEBUG_VARIABLE, one_line_errors


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("k=5: rule,\n   remedy"), "error: k=5: rule, remedy\n"),
        (FileNotFoundError("no such file"), "error: no such file\n"),
        (FloatingPointError("NaN at step 3"), "error: NaN at step 3\n"),
        (KeyError("x"), "error: KeyError: 'x' (this is a bug; add --debug for the traceback)\n"),
    ],
)
def test_an_exception_is_one_line_and_exit_code_1(error, line, capsys, monkeypatch):
    monkeypatch.delenv(DEBUG_VARIABLE, raising=False)
    with pytest.raises(SystemExit) as exit_info, one_line_errors():
        raise error
    assert exit_info.value.code == 1
    assert capsys.readouterr().err == line


def test_debug_shows_the_traceback(capsys, monkeypatch):
    monkeypatch.setenv(DEBUG_VARIABLE, "1")
    with pytest.raises(SystemExit), one_line_errors():
        raise ValueError("broken")
    assert "Traceback" in capsys.readouterr().err


def test_the_keyboard_is_130_and_success_is_silent(capsys):
    with pytest.raises(SystemExit) as exit_info, one_line_errors():
        raise KeyboardInterrupt
    assert exit_info.value.code == 130
    with one_line_errors():
        pass
