import json
import shutil

import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel

from synco_hub.data import load_dataset
from synco_hub.data.folder_version_0_1 import load_version_0_1_images
from synco_hub.data.pretraining_images import (
    FINGERPRINTS_FILE,
    PARTS_FOLDER,
    PretrainingImages,
    hash_pixels,
    keeps_fingerprints,
)
from synco_hub.hub.card.model_card import render_expected_card
from synco_hub.hub.model_names import find_pretraining_folders
from trainers.pretrain import main
from trainers.pretraining_model import SynCoForPreTraining
from trainers.schedules import learning_rate_factor

TINY = (
    "--backbone vit-nano --depth 1 --queue-size 16 --num-hard-negatives 4 --projection-hidden-dim 16 "
    "--projection-dim 8 --per-device-train-batch-size 4 --dataloader-num-workers 0 --use-cpu --logging-steps 1 "
    "--max-steps 4 --save-strategy steps --save-steps 2 --disable-tqdm true"
).split()


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path / "home"))


@pytest.fixture
def photographs(tmp_path):
    """A flat folder of classes with files of every mode, one of them broken."""
    generator = torch.Generator().manual_seed(0)
    root = tmp_path / "photographs"
    modes = [
        ("RGB", "jpg"),
        ("CMYK", "jpg"),
        ("P", "png"),
        ("LA", "png"),
        ("RGBA", "png"),
        ("I;16", "png"),
        ("L", "JPG"),
    ]
    for index in range(28):
        mode, ending = modes[index % len(modes)]
        pixels = torch.randint(0, 256, (50, 40, 3), generator=generator, dtype=torch.uint8).numpy()
        path = root / f"class{index % 2}" / f"{index}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(pixels)
        image = Image.fromarray(pixels[..., 0].astype("uint16") * 256) if mode == "I;16" else image.convert(mode)
        image.save(path)
    return root


def run(photographs, output, *flags: str) -> None:
    main([*TINY, "--dataset", str(photographs), "--output-dir", str(output), *flags])


def test_a_run_leaves_what_automodel_needs(photographs, tmp_path):
    output = tmp_path / "run"
    run(photographs, output)
    model, processor = AutoModel.from_pretrained(output), AutoImageProcessor.from_pretrained(output)
    features = model(**processor(Image.new("RGB", (60, 45)), return_tensors="pt")).pooler_output
    assert features.shape == (1, 96)
    checkpoint = SynCoForPreTraining.from_pretrained(output / "checkpoint-4")
    assert torch.equal(checkpoint.synco.backbone.norm.weight, model.backbone.norm.weight)
    assert torch.equal(
        AutoModel.from_pretrained(output / "checkpoint-4").backbone.norm.weight, model.backbone.norm.weight
    )
    settings = json.loads((output / "pretraining_settings.json").read_text())
    assert settings["pretraining"]["queue_size"] == 16
    assert (settings["data"]["num_images"], settings["data"]["split"]) == (28, "pretraining")
    summary = json.loads((output / "pretraining_summary.json").read_text())
    assert summary["last_log"]["step"] == 4
    assert summary["skipped_files"] == []
    assert "| pretraining.method | synco-v2 |" in (output / "README.md").read_text()
    assert (output / "modeling_synco.py").is_file()
    # Weights can be read by whoever can read the text files beside them.
    assert len({path.stat().st_mode for path in output.rglob("*") if path.is_file()}) == 1


def test_fingerprints_of_all_images_are_kept_beside_the_run_and_with_its_checkpoints(photographs, tmp_path):
    output = tmp_path / "run"
    broken = photographs / "class0/0.jpg"
    broken.write_bytes(b"nothing")
    run(photographs, output, "--max-steps", "8", "--per-device-train-batch-size", "8", "--max-bad-fraction", "0.5")
    images = load_dataset(str(photographs), "pretraining")
    good = [index for index in range(len(images)) if images.name(index) != "class0/0.jpg"]
    kept = PretrainingImages.read(output)
    assert kept.indices.tolist() == good  # four were in no full batch of the first epoch
    assert kept.hashes.tolist() == [
        int.from_bytes(hash_pixels(images.load_pixels(index))[:8], "little") for index in good
    ]
    assert find_pretraining_folders(str(output)) == find_pretraining_folders(str(output / "checkpoint-8")) == [output]
    assert not (output / PARTS_FOLDER).exists()
    run(photographs, tmp_path / "none", "--no-leak-check", "--max-bad-fraction", "0.5")
    assert not keeps_fingerprints(tmp_path / "none")
    assert find_pretraining_folders(str(tmp_path / "none")) == []


def test_a_resumed_run_keeps_the_fingerprints_of_both_its_parts(photographs, tmp_path):
    output = tmp_path / "run"
    run(photographs, output)
    assert 16 <= len(PretrainingImages.read(output)) < 28  # those of four batches, and what was read ahead
    for left in output.iterdir():
        if left.name not in ("checkpoint-4", "pretraining_settings.json", FINGERPRINTS_FILE):
            left.unlink() if left.is_file() else shutil.rmtree(left)
    run(photographs, output, "--max-steps", "7", "--resume")
    kept = PretrainingImages.read(output)
    assert (len(kept), kept.data.num_images) == (28, 28)


def test_resume_continues_the_newest_checkpoint_to_the_same_bits(photographs, tmp_path):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    run(photographs, whole)
    run(photographs, resumed, "--max-steps", "4")
    for name in ("checkpoint-4", "model.safetensors"):
        path = resumed / name
        path.rename(tmp_path / name)
    run(photographs, resumed, "--resume")
    assert (resumed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_a_broken_file_is_named_and_too_many_stop_the_run(photographs, tmp_path, capsys):
    images = load_dataset(str(photographs), "train")
    broken = next(photographs / images.name(index) for index in range(len(images)) if "jpg" in images.name(index))
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(SystemExit):
        run(photographs, tmp_path / "strict", "--num-train-epochs", "2", "--max-steps", "12")
    assert broken.name in capsys.readouterr().err
    run(photographs, tmp_path / "lenient", "--max-steps", "12", "--max-bad-fraction", "0.2")
    summary = json.loads((tmp_path / "lenient" / "pretraining_summary.json").read_text())
    assert [name.rsplit("/", 1)[-1] for name in summary["skipped_files"]] == [broken.name]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--method", "mobi"], "Did you mean 'moby'"),
        (["--backbone", "deit-x"], "deit-s"),
        (["--num-heads", "7"], "num_heads=7 does not divide"),
        (["--image-size", "33"], "image_size=33 is not a multiple"),
        (["--queue-size", "3"], "num_hard_negatives=4 exceeds queue_size=3"),
        (["--temperature", "0"], "temperature=0.0"),
        (["--dataset", "fractal"], "fractals"),
        (["--per-device-train-batch-size", "500"], "fewer than one batch of 500"),
        (["--recipe", "synco-v3"], "synco-v2"),
        (["--max-steps", "three"], "'three'"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(photographs, tmp_path, capsys, flags, message):
    with pytest.raises(SystemExit) as exit_info:
        run(photographs, tmp_path / "run", *flags)
    error = capsys.readouterr().err
    assert exit_info.value.code == 1
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_all_images_are_pretrained_on_unless_some_are_held_out(photographs, tmp_path, caplog):
    (photographs / "loose.png").write_bytes((photographs / "class0" / "2.png").read_bytes())
    run(photographs, tmp_path / "all", "--knn-every-epochs", "1")
    assert "pretraining on 29 of 29 images of photographs: all images" in caplog.text
    assert "6 of the 6 test images are among those that are pretrained on, without their labels" in caplog.text
    summary = json.loads((tmp_path / "all" / "pretraining_summary.json").read_text())
    assert summary["knn_data"]["pretrained_queries"] == 6
    assert (summary["knn_data"]["bank"]["num_images"], summary["data"]["num_images"]) == (22, 29)
    (photographs / "loose.png").unlink()
    caplog.clear()
    run(photographs, tmp_path / "some", "--knn-every-epochs", "1", "--holdout", "0.2")
    assert "pretraining on 22 of 28 images of photographs" in caplog.text
    assert "are among those that are pretrained on" not in caplog.text
    summary = json.loads((tmp_path / "some" / "pretraining_summary.json").read_text())
    assert summary["knn_data"]["pretrained_queries"] == 0
    assert "0.2 of each class held out by seed 0" in summary["data"]["split_rule"]


def test_a_run_that_version_0_1_began_goes_on_with_its_images(photographs, tmp_path, capsys, caplog):
    (photographs / "class0" / "further.tga").write_bytes((photographs / "class0" / "2.png").read_bytes())
    run(photographs, tmp_path / "run", "--max-steps", "2")
    file = tmp_path / "run" / "pretraining_settings.json"
    settings = json.loads(file.read_text())
    # As recorded by version 0.1, which held a fifth of every class out and read no .tga.
    earlier = load_version_0_1_images(photographs).description
    assert (earlier.num_images, earlier.split) == (22, "train")
    settings["data"] = earlier.to_dict()
    file.write_text(json.dumps(settings))
    for manifest in (tmp_path / "run").glob("checkpoint-*/manifest.json"):
        values = json.loads(manifest.read_text())
        del values["data"]
        manifest.write_text(json.dumps({**values, "num_images": 22, "steps_per_epoch": 5}))
    caplog.clear()
    run(photographs, tmp_path / "run", "--resume")
    assert "pretraining on 22 of 29 images of photographs: seeded stratified split (seed 0)" in caplog.text
    recorded = json.loads((tmp_path / "run" / "pretraining_settings.json").read_text())["data"]
    assert recorded.pop("contents")  # by which they are known where they have moved
    assert recorded == earlier.to_dict()
    # Held-out images were not those of that run.
    with pytest.raises(SystemExit):
        run(photographs, tmp_path / "run", "--resume", "--holdout", "0.5")
    assert "already holds a different run" in capsys.readouterr().err


def test_what_would_not_be_held_out_is_refused(photographs, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(photographs, tmp_path / "run", "--holdout", "30")
    assert "--holdout 30 of 28 images" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(photographs, tmp_path / "run", "--holdout", "0.2", "--streaming")
    assert "--holdout is not for --streaming" in capsys.readouterr().err


def settings_of(output) -> dict:
    return json.loads((output / "pretraining_settings.json").read_text())


def test_the_records_say_what_was_and_not_what_was_asked_for(photographs, tmp_path):
    output = tmp_path / "run"
    # 22 images for training: 5 batches of 4, so a step cannot have 100 of them.
    run(
        photographs,
        output,
        "--holdout",
        "0.2",
        "--fp16",
        "--num-train-epochs",
        "9",
        "--gradient-accumulation-steps",
        "100",
        "--optim",
        "sgd",
    )
    training = settings_of(output)["training"]
    assert (training["precision"], training["device"], training["optimizer"]) == ("fp32", "cpu", "SGD")
    assert (training["num_train_epochs"], training["max_steps"], training["steps"], training["epochs"]) == (
        None,
        4,
        4,
        4,
    )
    assert (training["gradient_accumulation_steps"], training["global_batch_size"]) == (5, 20)
    assert training["learning_rate"] == pytest.approx(1.5e-4 * 20 / 512)
    manifest = json.loads((output / "checkpoint-4" / "manifest.json").read_text())
    groups = torch.load(output / "checkpoint-4" / "optimizer.pt", weights_only=True)["param_groups"]
    assert manifest["precision"] == "fp32"
    assert manifest["optimizer"]["class"] == "SGD"
    assert manifest["optimizer"]["lr"] == groups[0]["initial_lr"] == training["learning_rate"]
    assert max(group["weight_decay"] for group in groups) == training["weight_decay"] == 0.1
    assert set(training["versions"]) >= {"torch", "transformers"}
    card = (output / "README.md").read_text()
    assert "| training.precision | fp32 |" in card
    assert str(photographs) not in card.split("| setting | value |")[1].replace(
        settings_of(output)["data"]["source"], ""
    )
    # What `synco-hub card` makes of the folder says the same.
    expected = render_expected_card(output)
    said = [{line for line in str(text).splitlines() if line.startswith("| training.")} for text in (card, expected)]
    assert said[0] == said[1]


def test_bf16_is_recorded_where_it_is_used(photographs, tmp_path):
    run(photographs, tmp_path / "run", "--bf16")
    assert settings_of(tmp_path / "run")["training"]["precision"] == "bf16"


def test_the_last_step_is_logged_and_drawn_however_short_a_run_is(photographs, tmp_path):
    output = tmp_path / "run"
    run(photographs, output, "--logging-steps", "50")
    summary = json.loads((output / "pretraining_summary.json").read_text())
    assert summary["last_log"]["step"] == 4
    assert summary["last_log"]["grad_norm"] > 0
    assert (output / "training_curve.png").is_file()


def resume(output, *flags: str) -> None:
    main(["--resume", "--output-dir", str(output), *flags])


def test_the_folder_alone_resumes_a_run_to_the_same_bits(photographs, tmp_path, monkeypatch):
    for name in ("whole", "stopped"):
        run(photographs, tmp_path / name, "--num-mixup", "3", "--learning-rate", "1e-3")
    for file in (tmp_path / "stopped" / "checkpoint-4", tmp_path / "stopped" / "model.safetensors"):
        file.rename(tmp_path / f"lost-{file.name}")
    resume(tmp_path / "stopped")
    files = [tmp_path / name / "checkpoint-4" / "model.safetensors" for name in ("whole", "stopped")]
    assert files[0].read_bytes() == files[1].read_bytes()
    kept = [settings_of(tmp_path / name) for name in ("whole", "stopped")]
    assert kept[0] == kept[1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--queue-size", "12"], "queue_size was 16 and is now 12"),
        (["--method", "moby"], "method was 'synco-v2' and is now 'moby'"),
        (["--optim", "sgd", "--max-steps", "6"], "holds the state of AdamW, which SGD cannot go on from"),
        (["--decay-tokens-and-tables", "--max-steps", "6"], "decays other weights"),
        (
            ["--per-device-train-batch-size", "2", "--gradient-accumulation-steps", "2"],
            "micro-batch × processes at 4 and",
        ),
    ],
)
def test_flags_beside_the_folder_are_compared(photographs, tmp_path, capsys, flags, message):
    output = tmp_path / "run"
    run(photographs, output, "--holdout", "0.2")
    before = settings_of(output)
    with pytest.raises(SystemExit):
        resume(output, *flags)
    *_, last = capsys.readouterr().err.strip().splitlines()
    assert last.startswith("error: ")
    assert message in last
    # What was refused is not what the run was.
    assert {key: settings_of(output)[key] for key in ("flags", "training")} == {
        key: before[key] for key in ("flags", "training")
    }


def test_new_settings_of_the_optimizer_take_effect_and_are_said(photographs, tmp_path, caplog):
    output = tmp_path / "run"
    run(photographs, output, "--learning-rate", "1e-3", "--holdout", "0.2")
    resume(output, "--weight-decay", "0.5", "--learning-rate", "0.02", "--num-train-epochs", "2")
    assert "weight_decay 0.1 → 0.5" in caplog.text
    assert "lr 0.001 → 0.02" in caplog.text
    history = json.loads((output / "checkpoint-10" / "trainer_state.json").read_text())["log_history"]
    rates = {entry["step"]: entry["learning_rate"] for entry in history if "loss" in entry}
    for step in range(5, 11):
        assert rates[step] == pytest.approx(0.02 * learning_rate_factor(step - 1, 10, 1), abs=1e-12), step
    group = torch.load(output / "checkpoint-10" / "optimizer.pt", weights_only=True)["param_groups"][-1]
    assert (group["initial_lr"], group["weight_decay"]) == (0.02, 0.5)
    training = settings_of(output)["training"]
    assert (training["learning_rate"], training["weight_decay"], training["steps"]) == (0.02, 0.5, 10)


def test_one_image_at_once_is_refused_where_batchnorm_needs_two(photographs, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(photographs, tmp_path / "run", "--per-device-train-batch-size", "1")
    assert "BatchNorm of the heads needs at least 2 images at once" in capsys.readouterr().err
    run(photographs, tmp_path / "run", "--per-device-train-batch-size", "1", "--head-norm", "none")


def test_too_many_unreadable_images_stop_a_run_that_logs_nothing(photographs, tmp_path, capsys):
    for file in sorted(photographs.rglob("*.*"))[:16]:
        file.write_bytes(b"no image")
    flags = ["--max-bad-fraction", "0.2", "--logging-strategy", "no", "--save-strategy", "no"]
    with pytest.raises(SystemExit):
        run(photographs, tmp_path / "run", *flags)
    assert "error: " in capsys.readouterr().err
    assert not (tmp_path / "run" / "model.safetensors").exists()
