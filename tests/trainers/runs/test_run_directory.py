import json

import pytest

from trainers.runs.run_directory import SETTINGS_FILE, claim, write_json


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
    claim(directory, settings(), resume=False)
    assert json.loads((directory / SETTINGS_FILE).read_text()) == settings()
    claim(directory, settings(training={"learning_rate": 2e-3}), resume=True)
    assert json.loads((directory / SETTINGS_FILE).read_text())["training"] == {"learning_rate": 2e-3}


@pytest.mark.parametrize("changes", [{}, {"seed": 2}])
def test_settings_alone_do_not_hold_a_directory(tmp_path, changes):
    claim(tmp_path, settings(), resume=False)
    # As a full disk leaves them: a write that did not end, and no checkpoint.
    (tmp_path / ".unfinished" / "checkpoint-3").mkdir(parents=True)
    claim(tmp_path, settings(**changes), resume=False)
    assert json.loads((tmp_path / SETTINGS_FILE).read_text()) == settings(**changes)


@pytest.mark.parametrize("left", ["checkpoint-3", "model.safetensors", "pretraining_summary.json"])
def test_the_same_run_is_not_overwritten_without_resume(tmp_path, left):
    claim(tmp_path, settings(), resume=False)
    (tmp_path / left).mkdir()
    with pytest.raises(ValueError, match="add --resume"):
        claim(tmp_path, settings(), resume=False)


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
    claim(tmp_path, settings(), resume=False)
    (tmp_path / "checkpoint-3").mkdir()
    before = (tmp_path / SETTINGS_FILE).read_bytes()
    with pytest.raises(ValueError, match="different run") as error:
        claim(tmp_path, settings(**changes), resume=resume)
    assert named in str(error.value)
    assert (tmp_path / SETTINGS_FILE).read_bytes() == before


def test_checkpoints_of_unknown_origin_are_refused(tmp_path):
    (tmp_path / "checkpoint-10").mkdir()
    with pytest.raises(ValueError, match="no pretraining_settings"):
        claim(tmp_path, settings(), resume=True)


def test_json_is_written_whole_or_not_at_all(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"b": object()})
    assert json.loads((tmp_path / "a.json").read_text()) == {"b": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_file_is_no_directory_of_a_run(tmp_path):
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(ValueError, match="taken is a file: name a folder"):
        claim(tmp_path / "taken", {"seed": 1}, resume=False)
    assert (tmp_path / "taken").read_text() == "mine"
