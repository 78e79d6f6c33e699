import errno
import os
import random
import sys
from subprocess import CalledProcessError

import pytest
import torch

from synco_hub.errors import (
    DEBUG_VARIABLE,
    describe_batch,
    escape,
    explain_out_of_memory,
    join_names,
    report_errors,
    suggest,
)

OUT_OF_MEMORY = (
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 139.72 GiB of which 1.20 GiB is "
    "free. Including non-PyTorch memory, this process has 138.50 GiB memory in use.\nIf reserved but unallocated "
    "memory is large try setting PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid fragmentation."
)


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
    with pytest.raises(SystemExit) as exit_info, report_errors():
        raise error
    assert exit_info.value.code == 1
    assert capsys.readouterr().err == line


@pytest.mark.parametrize(("code", "ended", "said"), [(1, 1, ""), (2, 2, ""), (-9, 137, "was ended by signal 9")])
def test_another_process_that_failed_has_said_why_and_gives_the_exit_code(code, ended, said, capsys, monkeypatch):
    monkeypatch.delenv(DEBUG_VARIABLE, raising=False)
    with pytest.raises(SystemExit) as exit_info, report_errors():
        raise CalledProcessError(code, ["python", "-m", "trainers.pretrain"])
    assert exit_info.value.code == ended
    error = capsys.readouterr().err
    assert said in error
    assert bool(said) == bool(error)


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
        with pytest.raises(SystemExit), report_errors():
            raise error
        assert capsys.readouterr().err == f"{start}{remedy}\n"


def test_other_errors_of_files_keep_their_words(tmp_path, capsys):
    with pytest.raises(SystemExit), report_errors():
        (tmp_path / "missing" / "a.json").write_text("")
    assert "No such file or directory" in capsys.readouterr().err


def test_debug_shows_the_traceback(capsys, monkeypatch):
    monkeypatch.setenv(DEBUG_VARIABLE, "1")
    with pytest.raises(SystemExit), report_errors():
        raise ValueError("broken")
    assert "Traceback" in capsys.readouterr().err


def test_the_keyboard_is_130_and_success_is_silent(capsys):
    with pytest.raises(SystemExit) as exit_info, report_errors():
        raise KeyboardInterrupt
    assert exit_info.value.code == 130
    with report_errors():
        pass


def test_usual_names_are_shown_as_they_are():
    for name in ("blocks.0.attn.qkv.weight", "übung (2)", "", 3, None):
        assert escape(name) == str(name)


@pytest.mark.parametrize("bad", ["\x1b[2J", "\n", "\r", "\t", "\x00", "\x9b", "\u202e", "\ud800", "\x7f"])
def test_what_moves_the_cursor_or_turns_the_line_is_written_out(bad):
    assert escape(f"a{bad}b").isprintable()
    assert escape(f"a{bad}b").startswith("a\\")
    assert len(escape(bad * 1000)) <= 121


def test_any_text_becomes_short_and_printable():
    generator = random.Random(0)
    for _ in range(300):
        text = "".join(chr(generator.randrange(sys.maxunicode + 1)) for _ in range(generator.randrange(200)))
        assert escape(text).isprintable()
        assert len(escape(text)) <= 121


def test_of_many_the_first_are_listed():
    assert join_names(["a", "b"], 2) == "a, b"
    assert join_names(iter("abc"), 2) == "a, b …"
    assert join_names([], 2) == ""


def test_the_nearest_names_end_a_line_or_nothing_does():
    assert suggest("moby", ["moby-v2", "byol", "supervised"]) == " Did you mean 'moby-v2' or 'byol'?"
    assert suggest("moby-v1", ["moby-v2", "byol"]) == " Did you mean 'moby-v2'?"
    assert suggest("mobi", ["moby", "moby", "byol"]) == " Did you mean 'moby'?"
    assert suggest("qqqq", iter(["moby-v2", "byol"])) == ""


def test_memory_that_does_not_suffice_is_one_line_and_no_bug(capsys, monkeypatch):
    monkeypatch.delenv(DEBUG_VARIABLE, raising=False)
    with pytest.raises(SystemExit), report_errors():
        raise torch.cuda.OutOfMemoryError(OUT_OF_MEMORY)
    assert capsys.readouterr().err == (
        "error: the memory of the device is too small for this (CUDA out of memory. Tried to allocate 20.00 GiB. GPU "
        "0 has a total capacity of 139.72 GiB of which 1.20 GiB is free): give --device cpu, a smaller batch or "
        "smaller images.\n"
    )


def test_the_innermost_explanation_of_missing_memory_is_the_one_that_is_said(capsys, monkeypatch):
    monkeypatch.delenv(DEBUG_VARIABLE, raising=False)
    outer = explain_out_of_memory(lambda: ("more", "give nothing"))
    inner = explain_out_of_memory(lambda: (describe_batch(1, None, "vit-l"), "give less"))
    with pytest.raises(SystemExit), report_errors(), outer, inner:
        raise torch.OutOfMemoryError("HIP out of memory")
    assert capsys.readouterr().err == (
        "error: the memory of the device is too small for 1 image with vit-l (HIP out of memory): give less.\n"
    )


def test_other_errors_pass_by_what_explains_missing_memory():
    with pytest.raises(RuntimeError, match=r"^shapes$"), explain_out_of_memory(lambda: ("this", "that")):
        raise RuntimeError("shapes")
