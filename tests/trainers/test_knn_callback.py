import json

import pytest
from PIL import Image

from trainers.knn_callback import KnnCallback
from trainers.pretrain import main

FLAGS = (
    "--backbone vit-nano --depth 1 --queue-size 16 --num-hard-negatives 4 --projection-hidden-dim 16 "
    "--projection-dim 8 --per-device-train-batch-size 4 --dataloader-num-workers 0 --use-cpu --logging-steps 2 "
    "--max-steps 10 --save-strategy no --disable-tqdm true --dataset fractals:num_classes=2,train_images_per_class=8,"
    "test_images_per_class=4"
).split()


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path / "home"))


def test_knn_is_measured_every_epochs_and_changes_nothing(tmp_path):
    main([*FLAGS, "--output-dir", str(tmp_path / "plain")])
    main([*FLAGS, "--output-dir", str(tmp_path / "measured"), "--knn-every-epochs", "1"])
    plain, measured = tmp_path / "plain", tmp_path / "measured"
    assert (plain / "model.safetensors").read_bytes() == (measured / "model.safetensors").read_bytes()
    assert (measured / "training_curve.png").stat().st_size > 1000
    summary = json.loads((measured / "pretraining_summary.json").read_text())
    assert summary["last_log"]["step"] == 10
    # 16 images in batches of 4: an epoch has 4 steps; and the end of the run.
    assert [entry["step"] for entry in summary["knn"]] == [4, 8, 10]
    assert all(0 <= entry["knn_top1_k10"] <= 100 for entry in summary["knn"])
    assert json.loads((plain / "pretraining_summary.json").read_text())["knn"] == []


def test_images_without_labels_cannot_be_measured(tmp_path, capsys):
    for index in range(9):
        Image.new("RGB", (40, 40), (index * 20, 90, 0)).save(tmp_path / f"{index}.png")
    with pytest.raises(SystemExit):
        main([*FLAGS, "--dataset", str(tmp_path), "--output-dir", str(tmp_path / "run"), "--knn-every-epochs", "1"])
    assert "--knn-every-epochs" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_an_interval_that_is_none_is_refused():
    with pytest.raises(ValueError, match="knn_every_epochs=0 is not positive"):
        KnnCallback(None, None, None, 0)  # type: ignore[arg-type]
