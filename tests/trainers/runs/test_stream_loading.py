"""Streams in training: broken off and continued to the same bits, continued in another order not at all."""

import itertools
import json
import logging
import shutil
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from synco_hub.data.streams.sampler import StreamSampler, StreamSettings
from synco_hub.data.streams.source import StreamSource
from synco_hub.data.views.dataset import TwoViewDataset
from trainers.pretrain import main
from trainers.pretraining_arguments import SynCoTrainingArguments
from trainers.runs.checkpoints import find_damage, read_manifest
from trainers.runs.stream_loading import StreamedData, StreamLoading, check_stream_position

sys.path.insert(0, str(Path(__file__).parents[2] / "synco_hub" / "data" / "streams"))
from stream_tables import parquet_folder, png, webdataset_folder, write_parquet

FLAGS = (
    "--backbone vit-nano --depth 1 --embed-dim 32 --num-heads 2 --queue-size 16 --num-hard-negatives 4 "
    "--image-size 32 --projection-hidden-dim 16 --projection-dim 8 --dataloader-num-workers 1 --use-cpu "
    "--logging-steps 3 --per-device-train-batch-size 4 --max-steps 9 --save-strategy steps --save-steps 5 "
    "--learning-rate 1e-3 --streaming --shuffle-buffer 6 --stream-retries 1 --disable-tqdm true"
).split()


@pytest.fixture
def table(tmp_path) -> Path:
    return parquet_folder(tmp_path / "table", [9, 11])


def train(table: Path, output: Path, *flags: str) -> None:
    main([*FLAGS, "--dataset", str(table), "--output-dir", str(output), *flags])


def breaking_source(monkeypatch, breaks: int) -> list[int]:
    """Lets the connection to shard 1 break at row 7, so many times; the list grows by every opening of a shard."""
    opened: list[int] = []
    failures = itertools.count()
    cells = StreamSource.cells

    def flaky(source, shard):
        opened.append(shard)
        for row, cell in enumerate(cells(source, shard)):
            if shard == 1 and row == 7 and opened.count(0) > 1 and next(failures) < breaks:
                raise ConnectionResetError("connection reset by peer")
            yield cell

    monkeypatch.setattr(StreamSource, "cells", flaky)
    monkeypatch.setattr("synco_hub.data.streams.retries._FIRST_WAIT_SECONDS", 0.01)
    return opened


def test_a_network_that_fails_for_good_saves_the_place_and_a_resume_ends_with_the_same_bits(
    table, tmp_path, monkeypatch, capsys, caplog
):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(table, whole)
    with monkeypatch.context() as patched:
        breaking_source(patched, breaks=99)
        with pytest.raises(SystemExit) as stopped:
            train(table, broken)
    assert stopped.value.code == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    step = int(error.split("Stopped after step ")[1].split()[0])
    # In the second epoch (an epoch has five steps), with what came before the break used up.
    assert 5 <= step < 9
    assert "train-00001-of-00002.parquet cannot be read beyond row 7 (ConnectionResetError: connection reset" in error
    assert f"saved {broken / f'checkpoint-{step}'}" in error
    assert error.endswith("continue with --resume.")
    assert "attempt 1 of 1 in 0.01 s" in caplog.text
    assert find_damage(broken / f"checkpoint-{step}") is None
    assert read_manifest(broken / f"checkpoint-{step}")["stream"]["rows_read"] == (step - 5) * 4
    train(table, broken, "--resume")
    for name in ("model.safetensors", "checkpoint-9/model.safetensors"):
        assert (whole / name).read_bytes() == (broken / name).read_bytes()
    one, other = (torch.load(run / "checkpoint-9" / "optimizer.pt")["state"] for run in (whole, broken))
    assert all(torch.equal(one[key]["exp_avg"], other[key]["exp_avg"]) for key in one)


def test_a_network_that_recovers_changes_nothing(table, tmp_path, monkeypatch):
    whole, shaken = tmp_path / "whole", tmp_path / "shaken"
    train(table, whole)
    opened = breaking_source(monkeypatch, breaks=1)
    train(table, shaken)
    assert opened.count(1) == opened.count(0) + 1
    assert (whole / "model.safetensors").read_bytes() == (shaken / "model.safetensors").read_bytes()


def test_too_many_bad_images_stop_the_run_and_few_are_named_at_its_end(tmp_path, capsys, caplog):
    table = tmp_path / "table"
    cells = [png(0, row) if row % 5 else b"rubbish" for row in range(20)]
    write_parquet(table / "train.parquet", cells)
    with pytest.raises(SystemExit):
        train(table, tmp_path / "strict")
    error = capsys.readouterr().err
    assert "of 20 images cannot be read: train.parquet, row" in error
    assert "--max-bad-fraction" in error
    with caplog.at_level(logging.WARNING):
        train(table, tmp_path / "lenient", "--max-bad-fraction", "0.2")
    names = [f"train.parquet, row {row}" for row in (0, 5, 10, 15)]
    assert f"4 of 20 images cannot be read: {', '.join(names)}" in caplog.text
    summary = json.loads((tmp_path / "lenient" / "pretraining_summary.json").read_text())
    assert summary["skipped_files"] == names


def test_another_data_set_and_another_way_of_reading_are_refused(table, tmp_path, capsys):
    output = tmp_path / "run"
    train(table, output, "--max-steps", "2", "--save-steps", "2")
    other = parquet_folder(tmp_path / "other", [10, 10])
    by_position = [flag for flag in FLAGS if flag != "--streaming"]
    for argv, text in (
        ([*FLAGS, "--dataset", str(other)], "data.fingerprint was|data.name was|fingerprint"),
        ([*by_position, "--dataset", str(table)], "already holds a different run"),
    ):
        with pytest.raises(SystemExit):
            main([*argv, "--output-dir", str(output), "--max-steps", "2", "--resume"])
        error = capsys.readouterr().err
        assert "already holds a different run" in error
        assert any(word in error for word in text.split("|"))


def test_an_epoch_of_a_stream_may_be_given_and_bad_flags_are_refused(table, tmp_path, capsys):
    train(table, tmp_path / "short", "--images-per-epoch", "8", "--max-steps", "3")
    manifest = json.loads((tmp_path / "short" / "checkpoint-3" / "manifest.json").read_text())
    assert (manifest["steps_per_epoch"], manifest["num_images"]) == (2, 8)
    for flags, text in (
        (["--knn-every-epochs", "1"], "another data set to measure on with --knn-dataset"),
        (["--shuffle-buffer", "-1"], "--shuffle-buffer -1"),
        (["--per-device-train-batch-size", "32"], "fewer than one batch of 32"),
    ):
        with pytest.raises(SystemExit):
            train(table, tmp_path / "refused", *flags)
        assert text in capsys.readouterr().err
        assert not (tmp_path / "refused").exists()


def shown_rows(monkeypatch) -> list[tuple[int, int]]:
    """Epoch and row of every image that a run asks for, in order; for runs without workers."""
    asked: list[tuple[int, int]] = []
    get = TwoViewDataset.__getitem__

    def watched(views, key):
        asked.append((key[0], int(key[1])))
        return get(views, key)

    monkeypatch.setattr(TwoViewDataset, "__getitem__", watched)
    return asked


@pytest.mark.parametrize("kind", [parquet_folder, webdataset_folder])
def test_short_epochs_are_resumed_to_the_same_bits_and_show_every_image(kind, tmp_path, monkeypatch):
    table = kind(tmp_path / "t", [9, 11])
    asked = shown_rows(monkeypatch)
    flags = ["--images-per-epoch", "8", "--dataloader-num-workers", "0", "--save-steps", "1"]
    flags += ["--save-total-limit", "20"]
    train(table, tmp_path / "whole", *flags, "--max-steps", "10")
    assert [epoch for epoch, _ in asked] == [step // 2 for step in range(10) for _ in range(4)]
    assert set(Counter(row for _, row in asked).values()) == {2}
    whole = list(asked)
    for stop in (3, 4):
        asked.clear()
        # As a run leaves it that was killed after the step.
        killed = tmp_path / f"run{stop}"
        shutil.copytree(tmp_path / "whole", killed)
        for later in range(stop + 1, 11):
            shutil.rmtree(killed / f"checkpoint-{later}")
        (killed / "model.safetensors").unlink()
        train(table, killed, *flags, "--max-steps", "10", "--resume")
        assert asked == whole[4 * stop :]
        one, two = (tmp_path / run / "checkpoint-10" / "model.safetensors" for run in ("whole", f"run{stop}"))
        assert one.read_bytes() == two.read_bytes()


def test_a_run_of_an_older_version_goes_on_in_its_order_and_says_so(table, tmp_path, monkeypatch, caplog):
    asked = shown_rows(monkeypatch)
    flags = ["--images-per-epoch", "8", "--dataloader-num-workers", "0", "--save-steps", "2"]
    monkeypatch.setattr(StreamSampler, "endless", property(lambda sampler: False, lambda sampler, value: None), False)
    train(table, tmp_path / "old", *flags, "--max-steps", "8")
    old = list(asked)
    asked.clear()
    train(table, tmp_path / "run", *flags, "--max-steps", "4")
    monkeypatch.undo()
    asked = shown_rows(monkeypatch)
    manifest = read_manifest(tmp_path / "run" / "checkpoint-4")
    assert "order" not in manifest["stream"]
    with caplog.at_level(logging.WARNING):
        train(table, tmp_path / "run", *flags, "--max-steps", "8", "--resume")
    assert asked == old[16:]
    assert "begun by a version whose epochs of 8 images all began with the first rows" in caplog.text


PLACE = {
    "num_shards": 4, "shuffle_buffer": 9, "seed": 5, "rule": "by shards", "processes": 2, "rows_per_epoch": 22,
    "steps_in_epoch": 3, "datasets": "5.2.0",
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"), [("processes", 1), ("shuffle_buffer", 10), ("rule", "by rows"), ("num_shards", 5)]
)
def test_another_order_is_refused_within_an_epoch_and_said_at_its_start(name, value, caplog):
    now = {**PLACE, name: value, "steps_in_epoch": 0}
    text = f"{name.replace('_', ' ')} was {PLACE[name]} and is {value}"
    with pytest.raises(ValueError, match=text):
        check_stream_position("checkpoint-3", PLACE, now)
    check_stream_position("checkpoint-3", {**PLACE, "steps_in_epoch": 0}, now)
    assert text in caplog.text
    check_stream_position("checkpoint-3", PLACE, dict(PLACE))
    with pytest.raises(ValueError, match="read as a stream, not by position"):
        check_stream_position("checkpoint-3", PLACE, None)
    check_stream_position("checkpoint-3", None, None)
    assert "with datasets" not in caplog.text
    check_stream_position("checkpoint-3", PLACE, {**PLACE, "datasets": "6.0.0"})
    assert "continuing a stream with datasets 5.2.0 → 6.0.0" in caplog.text


def test_shards_that_processes_cannot_share_are_said_with_the_remedy(tmp_path, caplog, monkeypatch):
    source = SimpleNamespace(counts=(10, 10, 10), shard_names=("a", "b", "c"))
    args = SynCoTrainingArguments(output_dir=str(tmp_path), use_cpu=True, per_device_train_batch_size=2)
    StreamLoading(StreamedData(source, StreamSettings()), 30, args)
    assert not caplog.text
    monkeypatch.setattr(type(args), "world_size", 2)
    loading = StreamLoading(StreamedData(source, StreamSettings()), 30, args)
    assert "3 shards cannot be shared evenly by 2 processes" in caplog.text
    assert "synco-hub data prepare" in caplog.text
    assert loading.position(3)["rows_read"] == 6
    assert loading.position(3)["rows_per_epoch"] == len(loading.sampler) == 14
