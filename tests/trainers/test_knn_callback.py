"""k-NN on the way: the run has the bits of one that is not measured, however its images come."""

import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import synco_hub
from synco_hub.data import ImageDataset, load_dataset
from trainers import knn_callback
from trainers.knn_callback import KnnCallback, load_knn_data
from trainers.pretrain import main
from trainers.pretraining_trainer import SynCoTrainer
from trainers.settings import DataArguments

datasets = pytest.importorskip("datasets")

FLAGS = (
    "--backbone vit-nano --depth 1 --queue-size 16 --num-hard-negatives 4 --projection-hidden-dim 16 "
    "--projection-dim 8 --per-device-train-batch-size 4 --dataloader-num-workers 0 --use-cpu --logging-steps 2 "
    "--max-steps 10 --save-strategy no --disable-tqdm true --dataset fractals:num_classes=2,train_images_per_class=8,"
    "test_images_per_class=4"
).split()

FRACTALS = "fractals:num_classes=4,train_images_per_class=6,test_images_per_class=3"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")


def test_knn_is_measured_every_epochs_and_changes_nothing(tmp_path):
    main([*FLAGS, "--output-dir", str(tmp_path / "plain")])
    main([*FLAGS, "--output-dir", str(tmp_path / "measured"), "--knn-every-epochs", "1"])
    plain, measured = tmp_path / "plain", tmp_path / "measured"
    assert (plain / "model.safetensors").read_bytes() == (measured / "model.safetensors").read_bytes()
    assert (measured / "training_curve.png").stat().st_size > 1000
    summary = json.loads((measured / "pretraining_summary.json").read_text())
    assert summary["last_log"]["step"] == 10
    # The untrained network; 16 images in batches of 4: an epoch has 4 steps; and the end of the run.
    assert [entry["step"] for entry in summary["knn"]] == [0, 4, 8, 10]
    assert all(0 <= entry["knn_top1_k10"] <= 100 for entry in summary["knn"])
    assert json.loads((plain / "pretraining_summary.json").read_text())["knn"] == []


def test_the_first_measurement_is_of_the_network_as_it_was_drawn(tmp_path, caplog):
    # A rate of 0 leaves it so, and that the training did not pay is said.
    flags = ["--knn-every-epochs", "9", "--learning-rate", "0", "--max-steps", "2", "--output-dir", str(tmp_path)]
    main([*FLAGS, *flags])
    before, after = json.loads((tmp_path / "pretraining_summary.json").read_text())["knn"]
    assert (before["step"], after["step"]) == (0, 2)
    assert before["knn_top1_k10"] == after["knn_top1_k10"]
    measured = synco_hub.evaluate("knn", model=str(tmp_path), dataset=FLAGS[-1], k=[10], device="cpu")
    assert measured.metrics["top1_k10"] == pytest.approx(before["knn_top1_k10"])
    score = f"{before['knn_top1_k10']:.1f} %"
    assert f"k-NN top-1 (k = 10) is {score} after 2 steps and was {score} before the first" in caplog.text


def test_images_without_labels_cannot_be_measured(tmp_path, capsys):
    for index in range(9):
        Image.new("RGB", (40, 40), (index * 20, 90, 0)).save(tmp_path / f"{index}.png")
    with pytest.raises(SystemExit):
        main([*FLAGS, "--dataset", str(tmp_path), "--output-dir", str(tmp_path / "run"), "--knn-every-epochs", "1"])
    assert "--knn-every-epochs" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.fixture
def table(tmp_path) -> Path:
    """Parquet shards of three classes, sorted by class, one row of each shard damaged."""
    generator = torch.Generator().manual_seed(0)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["r", "g", "b"])})

    def cell(label: int) -> dict[str, object]:
        pixels = torch.randint(0, 90, (34, 33, 3), generator=generator, dtype=torch.uint8)
        pixels[..., label] += 150
        buffer = io.BytesIO()
        Image.fromarray(pixels.numpy()).save(buffer, "PNG")
        return {"bytes": buffer.getvalue(), "path": None}

    for split, files, rows in (("train", 4, 11), ("validation", 1, 9)):
        labels = [index * 3 // (files * rows) for index in range(files * rows)]
        cells = [cell(label) for label in labels]
        for number in range(files):
            part = slice(number * rows, (number + 1) * rows)
            if split == "train":
                cells[part.start + 3]["bytes"] = b"damaged"
            shard = datasets.Dataset.from_dict({"image": cells[part], "label": labels[part]}, features=features)
            shard.to_parquet(tmp_path / "table" / f"{split}-{number:05d}-of-{files:05d}.parquet", batch_size=4)
    return tmp_path / "table"


STREAMED = [
    *("--streaming --shuffle-buffer 9 --max-bad-fraction 0.2 --save-strategy steps --save-steps 3").split(),
    *("--max-steps 16 --learning-rate 1e-3 --dataloader-num-workers 1").split(),
]


def same_bits(one: Path, other: Path, step: int, processes: int = 1) -> bool:
    """Weights, optimizer and random state of a checkpoint."""
    states = ["rng_state.pth"] if processes == 1 else [f"rng_state_{rank}.pth" for rank in range(processes)]
    folders = [run / f"checkpoint-{step}" for run in (one, other)]
    assert all((folders[0] / name).is_file() for name in states)
    weights = all(
        (one / name).read_bytes() == (other / name).read_bytes()
        for name in ("model.safetensors", f"checkpoint-{step}/model.safetensors")
    )
    loaded = [
        [torch.load(folder / name, weights_only=False) for name in ("optimizer.pt", *states)] for folder in folders
    ]
    return weights and equal(*loaded)


def equal(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(equal(a, b) for a, b in zip(one, other, strict=True))
    return bool((one == other) if not hasattr(one, "shape") else (one == other).all())


def test_a_measured_stream_has_the_bits_of_one_that_is_not_and_so_has_its_continuation(table, tmp_path, monkeypatch):
    plain, measured, stopped = (tmp_path / name for name in ("plain", "measured", "stopped"))
    knn = ["--knn-every-epochs", "0.5", "--knn-images", "30"]
    argv = [*FLAGS, *STREAMED, "--dataset", str(table)]
    main([*argv, "--output-dir", str(plain)])
    main([*argv, *knn, "--output-dir", str(measured)])
    assert same_bits(plain, measured, 16)
    # Killed within the second epoch, when the stream's place is not at its start.
    with monkeypatch.context() as patched:
        step = SynCoTrainer.training_step

        def dies(trainer, *args, **kwargs):
            if trainer.state.global_step == 14:
                raise KeyboardInterrupt
            return step(trainer, *args, **kwargs)

        patched.setattr(SynCoTrainer, "training_step", dies)
        with pytest.raises(SystemExit):
            main([*argv, *knn, "--output-dir", str(stopped)])
    assert not (stopped / "model.safetensors").exists()
    main([*argv, *knn, "--output-dir", str(stopped), "--resume"])
    assert same_bits(plain, stopped, 16)
    one, other = (json.loads((run / "pretraining_summary.json").read_text()) for run in (measured, stopped))
    # 44 images in batches of 4: an epoch has 11 steps; half of one, and the end of the run. Resumed, the untrained
    # network is not measured again.
    assert [entry["step"] for entry in one["knn"]] == [0, 6, 11, 16]
    assert one["knn"] == other["knn"]
    assert one["knn_data"] == other["knn_data"]
    assert one["knn_data"]["bank"]["split_rule"].endswith("30 rows spread over it")
    assert one["knn_data"]["queries"]["num_images"] == 9


def test_another_data_set_can_be_measured_on(table, tmp_path):
    argv = [*FLAGS, *STREAMED, "--dataset", str(table), "--knn-every-epochs", "9", "--max-steps", "3"]
    own = "fractals:num_classes=3,train_images_per_class=9,test_images_per_class=2"
    main([*argv, "--knn-dataset", own, "--knn-images", "12", "--output-dir", str(tmp_path / "run")])
    summary = json.loads((tmp_path / "run" / "pretraining_summary.json").read_text())
    assert [entry["step"] for entry in summary["knn"]] == [0, 3]
    assert [summary["knn_data"][side]["num_images"] for side in ("bank", "queries")] == [12, 6]


def test_a_measurement_that_fails_is_said_and_the_training_goes_on(table, tmp_path, monkeypatch, caplog):
    def fails(*args, **kwargs):
        raise ValueError("too many images cannot be read")

    monkeypatch.setattr("trainers.knn_callback.evaluate_knn", fails)
    argv = [*FLAGS, *STREAMED, "--dataset", str(table), "--knn-every-epochs", "9", "--max-steps", "2"]
    main([*argv, "--output-dir", str(tmp_path / "run")])
    assert "k-NN after step 2 was left out: too many images cannot be read" in caplog.text
    assert json.loads((tmp_path / "run" / "pretraining_summary.json").read_text())["knn"] == []


def test_as_many_images_may_be_unreadable_as_in_training(table, tmp_path, monkeypatch):
    seen = []
    measure = KnnCallback.measure
    monkeypatch.setattr(
        KnnCallback, "measure", lambda callback, state: (seen.append(callback.settings), measure(callback, state))
    )
    argv = [*FLAGS, *STREAMED, "--dataset", str(table), "--knn-every-epochs", "9", "--max-steps", "1"]
    main([*argv, "--output-dir", str(tmp_path / "run")])
    assert [settings.max_bad_fraction for settings in seen] == [0.2, 0.2]
    # Four of 44 rows of the bank are damaged.
    assert len(json.loads((tmp_path / "run" / "pretraining_summary.json").read_text())["knn"]) == 2


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("way", ["by position", "as a stream"])
def test_two_processes_have_the_same_bits_too(way, table, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    argv = [*FLAGS, *STREAMED, "--dataset", str(table)]
    if way == "by position":
        argv.remove("--streaming")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "trainers.pretrain"]
    for name, flags in (("plain", []), ("measured", ["--knn-every-epochs", "1"])):
        command = [sys.executable, *launcher, *argv, *flags, "--output-dir", str(tmp_path / name)]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr[-3000:]
    assert same_bits(tmp_path / "plain", tmp_path / "measured", 16, processes=2)
    summary = json.loads((tmp_path / "measured" / "pretraining_summary.json").read_text())
    # Of a global batch of 8, five steps an epoch.
    assert [entry["step"] for entry in summary["knn"]] == [0, 5, 10, 15, 16]


def write(root: Path, split: str, labels: list[Any], feature: Any) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (5, 4)).save(buffer, "PNG")
    cells = [{"bytes": buffer.getvalue(), "path": None}] * len(labels)
    features = datasets.Features({"image": datasets.Image(), "label": feature})
    table = datasets.Dataset.from_dict({"image": cells, "label": labels}, features=features)
    table.to_parquet(root / f"{split}-0.parquet", batch_size=2)


def of_stream(root: Path, **more: Any) -> knn_callback.KnnData:
    # What is trained on is a stream, whose images cannot be asked for.
    return load_knn_data(DataArguments(dataset=str(root), streaming=True, **more), 32, training=None)  # type: ignore[arg-type]


def test_by_position_the_bank_is_what_is_trained_on(tmp_path):
    training: ImageDataset = load_dataset(FRACTALS, "train", image_size=32)
    knn = load_knn_data(DataArguments(dataset=FRACTALS), 32, training)
    assert knn.bank.images is training
    assert (len(knn.queries), knn.queries.images.description.split) == (12, "test")
    assert knn.bank.transform.image_size == 32
    few = load_knn_data(DataArguments(dataset=FRACTALS, knn_images=8), 32, training)
    assert [len(side) for side in (few.bank, few.queries)] == [8, 8]
    assert len(set(few.bank.images.labels.tolist())) == 4


def test_a_stream_is_bounded_unless_it_is_said_how_much(tmp_path, monkeypatch):
    write(tmp_path / "t", "train", [0, 1] * 20, datasets.ClassLabel(names=["a", "b"]))
    write(tmp_path / "t", "test", [1, 0] * 10, datasets.ClassLabel(names=["a", "b"]))
    monkeypatch.setattr(knn_callback, "STREAMED_IMAGES", 16)
    few = of_stream(tmp_path / "t")
    assert [len(side) for side in (few.bank, few.queries)] == [16, 16]
    fewer = of_stream(tmp_path / "t", knn_images=4)
    assert [len(side) for side in (fewer.bank, fewer.queries)] == [4, 4]
    other = of_stream(tmp_path / "t", knn_dataset=FRACTALS)
    assert [len(side) for side in (other.bank, other.queries)] == [16, 12]
    descriptions = other.descriptions()
    assert descriptions["bank"]["split_rule"].endswith("16 of 24 images, spread over them")
    assert descriptions["queries"]["num_images"] == 12


@pytest.mark.parametrize(
    ("feature", "train", "test", "names"),
    [
        ("string", ["n1", "n3", "n1"], ["n3", "n2"], ["n1", "n2", "n3"]),
        ("int64", [0, 11, 2], [3, 1], [str(number) for number in range(12)]),
    ],
)
def test_classes_that_only_rows_tell_are_numbered_alike(feature, train, test, names, tmp_path, caplog):
    write(tmp_path / "t", "train", train, datasets.Value(feature))
    write(tmp_path / "t", "test", test, datasets.Value(feature))
    knn = of_stream(tmp_path / "t")
    bank, queries = knn.bank.images, knn.queries.images
    assert bank.class_names == queries.class_names == names
    for images, expected in ((bank, train), (queries, test)):
        assert [images.class_names[label] for label in images.labels] == [str(value) for value in expected]
    assert "of the 2 classes of the test images have no image among the 3 training images" in caplog.text


def test_what_cannot_be_measured_is_refused_before_the_training(tmp_path):
    training = load_dataset(FRACTALS, "train", image_size=32)
    names = ["a", "b"]
    write(tmp_path / "only", "train", [0, 1], datasets.ClassLabel(names=names))
    with pytest.raises(ValueError, match=r"no test split among train.*--knn-dataset"):
        of_stream(tmp_path / "only")
    write(tmp_path / "hidden", "train", [0, 1], datasets.ClassLabel(names=names))
    write(tmp_path / "hidden", "test", [-1, -1], datasets.ClassLabel(names=names))
    with pytest.raises(ValueError, match="--knn-every-epochs needs a class for every image"):
        of_stream(tmp_path / "hidden")
    other = load_dataset("fractals:num_classes=3,train_images_per_class=4", "train", image_size=32)
    with pytest.raises(ValueError, match=r"have 3 classes, the test images 4, and not the same.*--knn-dataset"):
        load_knn_data(DataArguments(dataset=FRACTALS), 32, other)
    alone = load_dataset("fractals:num_classes=1,train_images_per_class=4", "train", image_size=32)
    with pytest.raises(ValueError, match=r"are of one class, .*--knn-dataset"):
        load_knn_data(DataArguments(dataset="fractals:num_classes=1"), 32, alone)
    with pytest.raises(ValueError, match=r"imagenet-a has no split 'train'"):
        load_knn_data(
            DataArguments(dataset=FRACTALS, knn_dataset="imagenet-a", knn_data_dir=str(tmp_path)), 32, training
        )


def test_very_many_images_are_said(monkeypatch, caplog):
    training = load_dataset(FRACTALS, "train", image_size=32)
    monkeypatch.setattr(knn_callback, "MANY_IMAGES", 35)
    with caplog.at_level(logging.WARNING):
        load_knn_data(DataArguments(dataset=FRACTALS), 32, training)
    assert "features of 36 images at every measurement" in caplog.text
