import os
import signal
import subprocess
import sys

import pytest

from synco_hub.written_directory import directory_written_whole, refuse_filled


@pytest.mark.parametrize("there", [False, True])
def test_a_directory_appears_when_it_is_whole(tmp_path, there):
    output = tmp_path / "deep" / "out"
    if there:
        output.mkdir(parents=True)
    with directory_written_whole(output) as temporary:
        (temporary / "a.txt").write_text("a")
        assert temporary.parent == output.parent
        assert not (output / "a.txt").exists()
    assert [path.name for path in output.iterdir()] == ["a.txt"]
    assert [path.name for path in output.parent.iterdir()] == ["out"]


def write(output, before_the_end):
    with directory_written_whole(output) as temporary:
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
        "from synco_hub.written_directory import directory_written_whole\n"
        "with directory_written_whole(Path(sys.argv[1])) as temporary:\n"
        "    (temporary / 'a').write_text('a'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], cwd=os.getcwd(), check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
