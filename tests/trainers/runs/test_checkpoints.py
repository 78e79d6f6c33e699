import json
import os
import random
from pathlib import Path

import pytest

from trainers.runs import checkpoints
from trainers.runs.checkpoints import (
    MANIFEST_FILE,
    SETTINGS_FILE,
    UNFINISHED,
    check_continuation,
    claim_directory,
    commit_checkpoint,
    find_damage,
    latest_valid_checkpoint,
    read_manifest,
    read_settings,
    remove_unfinished,
    rotate_checkpoints,
    run_on_main_process,
    write_json,
)


def write(directory: Path, step: int, content: bytes = b"weights") -> Path:
    unfinished = directory / UNFINISHED / f"checkpoint-{step}"
    (unfinished / "inner").mkdir(parents=True)
    (unfinished / "model.safetensors").write_bytes(content)
    (unfinished / "inner" / "state.json").write_text("{}")
    final = directory / f"checkpoint-{step}"
    commit_checkpoint(unfinished, final, {"step": step})
    return final


def test_a_committed_checkpoint_is_whole_and_knows_its_facts(tmp_path):
    checkpoint = write(tmp_path, 3)
    assert find_damage(checkpoint) is None
    assert read_manifest(checkpoint)["step"] == 3
    assert set(read_manifest(checkpoint)["files"]) == {"model.safetensors", "inner/state.json"}
    assert latest_valid_checkpoint(tmp_path) == checkpoint


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_who_may_read_a_checkpoint_is_said_by_the_umask(tmp_path, umask):
    unfinished = tmp_path / UNFINISHED / "checkpoint-1"
    before = os.umask(umask)
    try:
        (unfinished / "inner").mkdir(parents=True)
        for name in ("model.safetensors", "inner/weights.safetensors", "state.json"):
            (unfinished / name).write_text("{}")
            (unfinished / name).chmod(0o600)  # as safetensors leaves it
        commit_checkpoint(unfinished, tmp_path / "checkpoint-1", {})
    finally:
        os.umask(before)
    files = [path for path in (tmp_path / "checkpoint-1").rglob("*") if path.is_file()]
    assert {oct(path.stat().st_mode & 0o777) for path in files} == {oct(0o666 & ~umask)}
    assert len(files) == 4
    assert find_damage(tmp_path / "checkpoint-1") is None


@pytest.mark.parametrize("seed", range(4))
def test_any_flipped_bit_is_noticed(tmp_path, seed):
    generator = random.Random(seed)
    content = bytearray(generator.randbytes(5000))
    checkpoint = write(tmp_path, 1, bytes(content))
    content[generator.randrange(5000)] ^= 1 << generator.randrange(8)
    (checkpoint / "model.safetensors").write_bytes(content)
    assert "was changed" in str(find_damage(checkpoint))


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
    assert latest_valid_checkpoint(tmp_path) == older
    assert message in caplog.text
    assert "checkpoint-10" in caplog.text


def test_newest_counts_steps_not_letters_and_ignores_what_is_unfinished(tmp_path):
    write(tmp_path, 9)
    write(tmp_path, 100)
    write(tmp_path, 20)
    (tmp_path / UNFINISHED / "checkpoint-300").mkdir(parents=True)
    (tmp_path / "checkpoint-400").write_text("a file")
    (tmp_path / "checkpoint-best").mkdir()
    assert latest_valid_checkpoint(tmp_path) == tmp_path / "checkpoint-100"
    remove_unfinished(tmp_path)
    assert not (tmp_path / UNFINISHED).exists()
    assert latest_valid_checkpoint(tmp_path / "nowhere") is None


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
    assert find_damage(tmp_path / "checkpoint-4") is None
    assert (tmp_path / "checkpoint-4" / "model.safetensors").read_bytes() == b"old"


@pytest.mark.parametrize(("limit", "kept"), [(2, [8, 12]), (3, [4, 8, 12]), (None, [0, 4, 8, 12]), (9, [0, 4, 8, 12])])
def test_rotation_keeps_the_newest_and_touches_nothing_foreign(tmp_path, limit, kept):
    for step in (0, 4, 8, 12):
        write(tmp_path, step)
    foreign = tmp_path / "checkpoint-1"
    foreign.mkdir()
    rotate_checkpoints(tmp_path, limit)
    left = sorted(json.loads(path.read_text())["step"] for path in tmp_path.glob(f"checkpoint-*/{MANIFEST_FILE}"))
    assert left == kept
    assert foreign.is_dir()


FACTS = {
    "global_batch_size": 512,
    "steps_per_epoch": 20,
    "num_images": 10_240,
    "world_size": 4,
    "gradient_accumulation_steps": 1,
    "precision": "bf16",
    "augment_on": "device",
    "versions": {"torch": "2.15"},
}
CHECKPOINT = Path("runs/a/checkpoint-7")


def test_the_same_run_is_continued_without_a_word(caplog):
    check_continuation(CHECKPOINT, FACTS, dict(FACTS))
    assert caplog.text == ""


@pytest.mark.parametrize("name", ["global_batch_size", "steps_per_epoch", "num_images"])
def test_what_position_and_schedules_count_in_is_refused_naming_both(name):
    with pytest.raises(ValueError, match=rf"checkpoint-7.*{name}={FACTS[name]}.*{name}=3.*at 512"):
        check_continuation(CHECKPOINT, FACTS, {**FACTS, name: 3})


def test_another_number_of_processes_with_the_same_global_batch_is_said_but_allowed(caplog):
    check_continuation(CHECKPOINT, FACTS, {**FACTS, "world_size": 2, "gradient_accumulation_steps": 2})
    assert "world_size was 4, is 2" in caplog.text
    assert "gradient_accumulation_steps was 1, is 2" in caplog.text


def test_another_place_of_augmentation_is_said_but_allowed(caplog):
    check_continuation(CHECKPOINT, FACTS, {**FACTS, "augment_on": "worker"})
    assert "augment_on was device, is worker" in caplog.text


def test_other_versions_are_said(caplog):
    check_continuation(CHECKPOINT, FACTS, {**FACTS, "versions": {"torch": "2.11"}})
    assert "torch 2.15 → 2.11" in caplog.text


def settings(**changes: object) -> dict[str, object]:
    base = {
        "backbone": {"backbone": "deit-s", "num_heads": 6, "depth": [2, 2]},
        "pretraining": {"method": "synco-v2", "temperature": 0.2},
        "data": {"name": "photographs", "fingerprint": "abc"},
        "seed": 1,
        "training": {"learning_rate": 1e-3},
    }
    return {**base, **changes}


def test_a_new_directory_gets_the_settings_and_the_same_run_may_resume(tmp_path):
    directory = tmp_path / "runs" / "first"
    claim_directory(directory, settings(), resume=False)
    assert json.loads((directory / SETTINGS_FILE).read_text()) == settings()
    claim_directory(directory, settings(training={"learning_rate": 2e-3}), resume=True)
    assert json.loads((directory / SETTINGS_FILE).read_text())["training"] == {"learning_rate": 2e-3}


@pytest.mark.parametrize("changes", [{}, {"seed": 2}])
def test_settings_alone_do_not_hold_a_directory(tmp_path, changes):
    claim_directory(tmp_path, settings(), resume=False)
    # As a full disk leaves them: a write that did not end, and no checkpoint.
    (tmp_path / ".unfinished" / "checkpoint-3").mkdir(parents=True)
    claim_directory(tmp_path, settings(**changes), resume=False)
    assert json.loads((tmp_path / SETTINGS_FILE).read_text()) == settings(**changes)


@pytest.mark.parametrize("left", ["checkpoint-3", "model.safetensors", "pretraining_summary.json"])
def test_the_same_run_is_not_overwritten_without_resume(tmp_path, left):
    claim_directory(tmp_path, settings(), resume=False)
    (tmp_path / left).mkdir()
    with pytest.raises(ValueError, match="add --resume"):
        claim_directory(tmp_path, settings(), resume=False)


@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"pretraining": {"method": "moby", "temperature": 0.2}}, "method was 'synco-v2' and is now 'moby'"),
        ({"backbone": {"backbone": "swin-t", "num_heads": 6, "depth": [2, 2]}}, "backbone was 'deit-s'"),
        ({"data": {"name": "photographs", "fingerprint": "xyz"}}, "fingerprint was 'abc'"),
        ({"seed": 2}, "seed was 1 and is now 2"),
    ],
)
def test_another_run_is_refused_and_nothing_changes(tmp_path, changes, named, resume):
    claim_directory(tmp_path, settings(), resume=False)
    (tmp_path / "checkpoint-3").mkdir()
    before = (tmp_path / SETTINGS_FILE).read_bytes()
    with pytest.raises(ValueError, match="different run") as error:
        claim_directory(tmp_path, settings(**changes), resume=resume)
    assert named in str(error.value)
    assert (tmp_path / SETTINGS_FILE).read_bytes() == before


def test_checkpoints_of_unknown_origin_are_refused(tmp_path):
    (tmp_path / "checkpoint-10").mkdir()
    with pytest.raises(ValueError, match="no pretraining_settings"):
        claim_directory(tmp_path, settings(), resume=True)


def test_another_program_has_its_own_file_in_which_every_key_counts(tmp_path):
    def claim(settings: dict[str, object], resume: bool, directory: Path = tmp_path / "run") -> None:
        claim_directory(directory, settings, resume, "probe_settings.json", identity=None)

    values = {"model": "a", "rates": (1.0, 2.0)}
    claim(values, resume=False)
    assert json.loads((tmp_path / "run" / "probe_settings.json").read_text())["rates"] == [1.0, 2.0]
    claim(values, resume=True)
    # Stopped before its first checkpoint, a run may begin again.
    claim(values, resume=False)
    (tmp_path / "run" / "checkpoint-3").mkdir()
    with pytest.raises(ValueError, match="add --resume"):
        claim(values, resume=False)
    with pytest.raises(ValueError, match="model was 'a' and is now 'b'"):
        claim({**values, "model": "b"}, resume=True)
    (tmp_path / "other" / "checkpoint-3").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"probe_settings\.json, so they are not a run of this program"):
        claim(values, resume=True, directory=tmp_path / "other")


def test_json_is_written_whole_or_not_at_all(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"b": object()})
    assert json.loads((tmp_path / "a.json").read_text()) == {"b": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_file_is_no_directory_of_a_run(tmp_path):
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(ValueError, match="taken is a file: name a folder"):
        claim_directory(tmp_path / "taken", {"seed": 1}, resume=False)
    assert (tmp_path / "taken").read_text() == "mine"


def fails() -> None:
    raise ValueError("no such folder")


def test_one_process_does_it_and_says_why_it_failed():
    assert run_on_main_process(lambda: 3, 0, 1) == 3
    with pytest.raises(ValueError, match="no such folder"):
        run_on_main_process(fails, 0, 1)


@pytest.mark.parametrize("failing", [False, True])
def test_the_others_hear_whether_it_succeeded_and_end_without_a_word(failing, monkeypatch, capsys):
    sent = []
    monkeypatch.setattr(checkpoints, "broadcast_object_list", lambda values: sent.append(list(values)))
    if failing:
        with pytest.raises(ValueError, match="no such folder"):
            run_on_main_process(fails, 0, 3)
    else:
        assert run_on_main_process(lambda: 7, 0, 3) == 7
    assert sent == [[failing]]

    def receive(values: list[bool]) -> None:
        values[:] = sent[0]

    monkeypatch.setattr(checkpoints, "broadcast_object_list", receive)
    if failing:
        with pytest.raises(SystemExit) as ended:
            run_on_main_process(lambda: 7, 2, 3)
        assert ended.value.code == 1
    else:
        assert run_on_main_process(fails, 2, 3) is None
    assert capsys.readouterr() == ("", "")


def test_the_best_checkpoint_is_deleted_last(tmp_path):
    for number in (1, 2, 3, 4):
        (tmp_path / f"checkpoint-{number}").mkdir()
        (tmp_path / f"checkpoint-{number}" / MANIFEST_FILE).write_text("{}")
    rotate_checkpoints(tmp_path, 2, "checkpoint-1")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1", "checkpoint-4"]


def test_the_flags_tell_no_run_from_another(tmp_path):
    claim_directory(tmp_path, {"seed": 1, "flags": ["--a"]}, False, "probe_settings.json", identity=None)
    claim_directory(tmp_path, {"seed": 1, "flags": ["--b"]}, True, "probe_settings.json", identity=None)
    assert read_settings(tmp_path, ("flags",), "probe_settings.json") == {"flags": ["--b"]}
    assert read_settings(tmp_path / "nowhere") == {}
