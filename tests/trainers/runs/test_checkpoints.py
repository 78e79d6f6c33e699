import json
import random
from pathlib import Path

import pytest

from trainers.runs.checkpoints import (
    MANIFEST_FILE,
    UNFINISHED,
    clear_unfinished,
    commit,
    manifest_of,
    newest_whole,
    rotate,
    what_is_broken,
)


def write(directory: Path, step: int, content: bytes = b"weights") -> Path:
    unfinished = directory / UNFINISHED / f"checkpoint-{step}"
    (unfinished / "inner").mkdir(parents=True)
    (unfinished / "model.safetensors").write_bytes(content)
    (unfinished / "inner" / "state.json").write_text("{}")
    final = directory / f"checkpoint-{step}"
    commit(unfinished, final, {"step": step})
    return final


def test_a_committed_checkpoint_is_whole_and_knows_its_facts(tmp_path):
    checkpoint = write(tmp_path, 3)
    assert what_is_broken(checkpoint) is None
    assert manifest_of(checkpoint)["step"] == 3
    assert set(manifest_of(checkpoint)["files"]) == {"model.safetensors", "inner/state.json"}
    assert newest_whole(tmp_path) == checkpoint


@pytest.mark.parametrize("seed", range(4))
def test_any_flipped_bit_is_noticed(tmp_path, seed):
    generator = random.Random(seed)
    content = bytearray(generator.randbytes(5000))
    checkpoint = write(tmp_path, 1, bytes(content))
    content[generator.randrange(5000)] ^= 1 << generator.randrange(8)
    (checkpoint / "model.safetensors").write_bytes(content)
    assert "was changed" in str(what_is_broken(checkpoint))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: (path / "model.safetensors").unlink(), "is missing"),
        (lambda path: (path / "model.safetensors").write_bytes(b"we"), "2 bytes instead of 7"),
        (lambda path: (path / MANIFEST_FILE).unlink(), "no manifest.json"),
        (lambda path: (path / MANIFEST_FILE).write_text('{"files": '), "cannot be read"),
    ],
)
def test_a_broken_checkpoint_is_passed_over_by_name(tmp_path, caplog, damage, message):
    older, newer = write(tmp_path, 9), write(tmp_path, 10)
    damage(newer)
    assert newest_whole(tmp_path) == older
    assert message in caplog.text
    assert "checkpoint-10" in caplog.text


def test_newest_counts_steps_not_letters_and_ignores_what_is_unfinished(tmp_path):
    write(tmp_path, 9)
    write(tmp_path, 100)
    write(tmp_path, 20)
    (tmp_path / UNFINISHED / "checkpoint-300").mkdir(parents=True)
    (tmp_path / "checkpoint-400").write_text("a file")
    (tmp_path / "checkpoint-best").mkdir()
    assert newest_whole(tmp_path) == tmp_path / "checkpoint-100"
    clear_unfinished(tmp_path)
    assert not (tmp_path / UNFINISHED).exists()
    assert newest_whole(tmp_path / "nowhere") is None


def test_a_checkpoint_of_the_same_step_is_replaced(tmp_path):
    write(tmp_path, 4, b"old")
    assert (write(tmp_path, 4, b"new") / "model.safetensors").read_bytes() == b"new"
    assert [path.name for path in (tmp_path / UNFINISHED).glob("*")] == []


def test_a_failed_commit_leaves_what_was_there(tmp_path, monkeypatch):
    write(tmp_path, 4, b"old")
    full = OSError("disk is full")
    monkeypatch.setattr("trainers.runs.checkpoints._sha256", lambda file: (_ for _ in ()).throw(full))
    with pytest.raises(OSError, match="full"):
        write(tmp_path, 4, b"new")
    monkeypatch.undo()
    assert what_is_broken(tmp_path / "checkpoint-4") is None
    assert (tmp_path / "checkpoint-4" / "model.safetensors").read_bytes() == b"old"


@pytest.mark.parametrize(("limit", "kept"), [(2, [8, 12]), (3, [4, 8, 12]), (None, [0, 4, 8, 12]), (9, [0, 4, 8, 12])])
def test_rotation_keeps_the_newest_and_touches_nothing_foreign(tmp_path, limit, kept):
    for step in (0, 4, 8, 12):
        write(tmp_path, step)
    foreign = tmp_path / "checkpoint-1"
    foreign.mkdir()
    rotate(tmp_path, limit)
    left = sorted(json.loads(path.read_text())["step"] for path in tmp_path.glob(f"checkpoint-*/{MANIFEST_FILE}"))
    assert left == kept
    assert foreign.is_dir()
