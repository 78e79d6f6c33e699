"""What is written is whole or as it was, whatever happens meanwhile."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from synco_hub.atomic_write import (
    atomic_write,
    atomic_write_directory,
    refuse_filled,
    set_usual_modes,
    usual_modes,
)


def test_the_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "figure.png"
    with atomic_write(path) as temporary:
        assert temporary.suffix == ".png"
        temporary.write_text("all of it")
        assert not path.exists()
    assert path.read_text() == "all of it"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "result.json"
    path.write_text("old")

    def write_half() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("ha")
            raise error

    with pytest.raises(error):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a folder"), atomic_write(tmp_path):
        pass


@pytest.mark.parametrize("there", [False, True])
def test_a_directory_appears_when_it_is_whole(tmp_path, there):
    output = tmp_path / "deep" / "out"
    if there:
        output.mkdir(parents=True)
    with atomic_write_directory(output) as temporary:
        (temporary / "a.txt").write_text("a")
        assert temporary.parent == output.parent
        assert not (output / "a.txt").exists()
    assert [path.name for path in output.iterdir()] == ["a.txt"]
    assert [path.name for path in output.parent.iterdir()] == ["out"]


def write(output, before_the_end):
    with atomic_write_directory(output) as temporary:
        (temporary / "a").write_text("ours")
        before_the_end()


def fail():
    raise RuntimeError("half way")


def test_a_failure_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError, match="half way"):
        write(tmp_path / "out", fail)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_stays(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").write_text("mine")
    for name in ("file", "full"):
        with pytest.raises(ValueError, match="choose another output"):
            write(tmp_path / name, fail)
    refuse_filled(tmp_path / "absent")

    def filled_by_somebody_else():
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "a").write_text("theirs")

    with pytest.raises(OSError, match="not empty"):
        write(tmp_path / "new", filled_by_somebody_else)
    assert (tmp_path / "new" / "a").read_text() == "theirs"
    assert not list(tmp_path.glob(".*"))


def test_a_killed_run_leaves_no_half_directory_under_its_name(tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from synco_hub.atomic_write import atomic_write_directory\n"
        "with atomic_write_directory(Path(sys.argv[1])) as temporary:\n"
        "    (temporary / 'a').write_text('a'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], cwd=os.getcwd(), check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()


@pytest.fixture(params=[0o022, 0o077, 0o002])
def usual(request):
    """The mode of a new file under a umask, which is in force during the test."""
    before = os.umask(request.param)
    yield 0o666 & ~request.param
    os.umask(before)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def write_weights(path):
    """A file as libraries leave it that write a temporary one of their own and rename it."""
    save_file({"weight": torch.zeros(2)}, path)
    path.chmod(0o600)


def test_a_file_gets_the_mode_of_the_umask(tmp_path, usual):
    path = tmp_path / "weights.safetensors"
    with atomic_write(path) as temporary:
        write_weights(temporary)
    (tmp_path / "config.json").write_text("{}")
    assert mode(path) == mode(tmp_path / "config.json") == usual
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "weights.safetensors"]


@pytest.mark.parametrize("chosen", [0o600, 0o640, 0o664])
def test_what_replaces_a_file_keeps_its_mode_as_writing_into_it_would(tmp_path, usual, chosen):
    for name in ("plain", "atomic", "library"):
        (tmp_path / name).write_text("old")
        (tmp_path / name).chmod(chosen)
    (tmp_path / "plain").write_text("new")
    with atomic_write(tmp_path / "atomic") as temporary:
        temporary.write_text("new")
    with usual_modes(tmp_path):
        (tmp_path / "renamed").write_text("new")
        (tmp_path / "renamed").replace(tmp_path / "library")
    assert [mode(tmp_path / name) for name in ("plain", "atomic", "library")] == [chosen] * 3
    assert (tmp_path / "library").read_text() == (tmp_path / "atomic").read_text() == "new"


def test_every_file_of_a_directory_gets_the_mode_of_the_umask(tmp_path, usual):
    with atomic_write_directory(tmp_path / "out") as temporary:
        (temporary / "deep").mkdir()
        write_weights(temporary / "deep" / "model.safetensors")
        write_weights(temporary / "model.safetensors")
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert [mode(path) for path in files] == [usual, usual]
    (tmp_path / "beside").mkdir()
    assert mode(tmp_path / "out") == mode(tmp_path / "out" / "deep") == mode(tmp_path / "beside")


def test_an_empty_folder_that_is_filled_keeps_its_mode(tmp_path, usual):
    (tmp_path / "out").mkdir()
    (tmp_path / "out").chmod(0o2750)
    with atomic_write_directory(tmp_path / "out") as temporary:
        (temporary / "a").write_text("a")
    assert mode(tmp_path / "out") == 0o2750


def test_only_what_a_library_wrote_changes_its_mode(tmp_path, usual):
    write_weights(tmp_path / "secret")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "private").write_text("mine")
    (tmp_path / "out" / "private").chmod(0o600)
    (tmp_path / "out" / "link").symlink_to(tmp_path / "secret")
    with usual_modes(tmp_path / "out"):
        write_weights(tmp_path / "out" / "model.safetensors")
    assert mode(tmp_path / "out" / "model.safetensors") == usual
    assert mode(tmp_path / "out" / "private") == mode(tmp_path / "secret") == 0o600
    set_usual_modes(tmp_path / "out")
    assert mode(tmp_path / "out" / "private") == usual
    assert mode(tmp_path / "secret") == 0o600
