"""What is written is whole or as it was, whatever happens meanwhile."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from synco_hub.atomic_write import atomic_write, atomic_write_directory, refuse_filled


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
