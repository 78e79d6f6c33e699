import errno
import os

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


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.EROFS, "the file system is read-only: choose another --output or --output-dir."),
        (errno.EACCES, "permission denied: choose another path, or change the permissions."),
        (errno.ENOSPC, "no space is left on the device: free some, or choose an output on another disk."),
    ],
)
def test_a_disk_that_takes_nothing_is_named_with_a_remedy(number, remedy, capsys, monkeypatch):
    monkeypatch.delenv(DEBUG_VARIABLE, raising=False)
    for error, start in (
        (OSError(number, os.strerror(number), "/mnt/a.json"), "error: /mnt/a.json: "),
        (OSError(number, os.strerror(number), "a.part", None, "a.json"), "error: a.part -> a.json: "),
        (OSError(number, os.strerror(number)), "error: "),
    ):
        with pytest.raises(SystemExit), one_line_errors():
            raise error
        assert capsys.readouterr().err == f"{start}{remedy}\n"


def test_other_errors_of_files_keep_their_words(tmp_path, capsys):
    with pytest.raises(SystemExit), one_line_errors():
        (tmp_path / "missing" / "a.json").write_text("")
    assert "No such file or directory" in capsys.readouterr().err


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
