"""Runs that go on from weights: the start's network and normalisation, gentle defaults, an exact resume."""

import json
import shutil

import pytest
import torch
from foreign_checkpoints import dino, vit
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, ViTConfig, ViTImageProcessor, ViTModel

from synco_hub.averaging import AVERAGE_FILE
from synco_hub.hub.start import read_start
from synco_hub.models import SynCoConfig, SynCoModel, image_processor
from trainers import start_settings
from trainers.pretrain import main
from trainers.pretraining_arguments import SynCoTrainingArguments
from trainers.pretraining_model import SynCoForPreTraining
from trainers.pretraining_trainer import SynCoTrainer
from trainers.pretraining_views import choose_view_parameters
from trainers.recipe import parse
from trainers.schedules import frozen_backbone_factor, learning_rate_factor

SMALL = {"queue_size": 16, "num_hard_negatives": 4, "projection_hidden_dim": 16, "projection_dim": 8}
HEADS = [word for name, value in SMALL.items() for word in (f"--{name}", str(value))]
RUN = (
    "--per-device-train-batch-size 4 --dataloader-num-workers 0 --use-cpu --logging-steps 1 --max-steps 4 "
    "--save-strategy steps --save-steps 2 --disable-tqdm true"
).split()
FRACTALS = "fractals:num_classes=2,train_images_per_class=12,test_images_per_class=4"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path / "home"))


@pytest.fixture
def own(tmp_path):
    """A network of this package, trained on something."""
    torch.manual_seed(0)
    SynCoModel(SynCoConfig(backbone="vit-nano", depth=2)).save_pretrained(tmp_path / "own")
    processor = image_processor(32)
    processor.image_mean, processor.image_std = [0.4, 0.5, 0.6], [0.25, 0.25, 0.25]
    processor.save_pretrained(tmp_path / "own")
    return tmp_path / "own"


@pytest.fixture
def photographs(tmp_path):
    generator = torch.Generator().manual_seed(0)
    for index in range(16):
        pixels = torch.randint(0, 256, (50, 40, 3), generator=generator, dtype=torch.uint8).numpy()
        path = tmp_path / "photographs" / f"class{index % 2}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return tmp_path / "photographs"


def run(photographs, output, *flags):
    main([*HEADS, *RUN, "--dataset", str(photographs), "--output-dir", str(output), *map(str, flags)])


def read(file):
    return json.loads(file.read_text())


def test_the_network_is_the_start_and_its_normalisation_is_that_of_the_views(own, photographs, tmp_path):
    run(photographs, tmp_path / "run", "--start-from", own, "--image-size", 48, "--learning-rate", 0)
    before, after = AutoModel.from_pretrained(own).eval(), AutoModel.from_pretrained(tmp_path / "run").eval()
    images = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        assert torch.equal(after(images).pooler_output, before(images, interpolate_pos_encoding=True).pooler_output)
    processor = AutoImageProcessor.from_pretrained(tmp_path / "run")
    assert list(processor.image_mean) == [0.4, 0.5, 0.6]
    assert dict(processor.crop_size)["height"] == 48
    parameters = choose_view_parameters(processor)
    assert parameters.mean == pytest.approx((0.4, 0.5, 0.6))
    settings = read(tmp_path / "run" / "pretraining_settings.json")
    manifest = read(tmp_path / "run" / "checkpoint-4" / "manifest.json")
    assert settings["start"] == manifest["start"]
    assert settings["start"]["base_model"] == "own"
    assert settings["start"]["weights"] == read_start(str(own)).facts["weights"]
    assert settings["backbone"]["depth"] == 2
    assert "Continued from own" in (tmp_path / "run" / "README.md").read_text()
    checkpoint = AutoImageProcessor.from_pretrained(tmp_path / "run" / "checkpoint-4")
    assert list(checkpoint.image_mean) == [0.4, 0.5, 0.6]


def test_a_resumed_run_has_the_same_bits_without_its_start(own, photographs, tmp_path, capsys):
    flags = ("--start-from", own, "--learning-rate", "1e-3", "--freeze-backbone-epochs", "0.25")
    run(photographs, tmp_path / "whole", *flags)
    run(photographs, tmp_path / "stopped", *flags)
    for name in ("checkpoint-4", "model.safetensors"):
        (tmp_path / "stopped" / name).rename(tmp_path / name)
    shutil.move(own, tmp_path / "elsewhere")
    main(["--resume", "--output-dir", str(tmp_path / "stopped")])
    names = [tmp_path / name / "checkpoint-4" / "model.safetensors" for name in ("whole", "stopped")]
    assert names[0].read_bytes() == names[1].read_bytes()
    kept = [read(tmp_path / name / "pretraining_settings.json") for name in ("whole", "stopped")]
    assert kept[0] == kept[1]
    with pytest.raises(SystemExit):
        main(["--resume", "--output-dir", str(tmp_path / "stopped"), "--image-size", "48"])
    assert "which has image_size 32" in capsys.readouterr().err
    # The same start from elsewhere is the same; another one is refused, and so is one where there was none.
    main(["--resume", "--output-dir", str(tmp_path / "stopped"), "--start-from", str(tmp_path / "elsewhere")])
    SynCoModel(SynCoConfig(backbone="vit-nano", depth=2)).save_pretrained(tmp_path / "other")
    run(photographs, tmp_path / "random", "--backbone", "vit-nano", "--depth", "2")
    for output, start, message in (
        ("stopped", "other", "began with own, which has other weights"),
        ("random", "elsewhere", "began with random weights"),
    ):
        capsys.readouterr()
        with pytest.raises(SystemExit):
            main(["--resume", "--output-dir", str(tmp_path / output), "--start-from", str(tmp_path / start)])
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--backbone", "deit-s"), "--backbone deit-s: the network is that of --start-from"),
        (("--backbone", "swin-t"), "--backbone swin-t: the network is that of --start-from"),
        (("--embed-dim", "48"), "which has embed_dim 96"),
        (("--num-heads", "4"), "which has num_heads 3"),
        (("--image-size", "33"), "image_size=33 is not a multiple"),
        (("--layer-decay", "1.5"), "--layer-decay 1.5"),
        (("--keep-dataset", FRACTALS), "--keep-dataset is for --knn-every-epochs"),
        (("--save-average",), "--save-average needs the domain of the start"),
    ],
)
def test_what_contradicts_the_start_is_one_line(own, photographs, tmp_path, capsys, flags, message):
    with pytest.raises(SystemExit):
        run(photographs, tmp_path / "run", "--start-from", own, *flags)
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_what_the_start_has_may_be_repeated_and_a_recipe_names_no_network(own, tmp_path, caplog):
    flags = ["--start-from", str(own), "--output-dir", str(tmp_path), "--use-cpu"]
    made = parse([*flags, "--recipe", "small/300"])
    assert (made.backbone.backbone, made.backbone.image_size, made.settings.queue_size) == (None, None, 256)
    assert made.training.learning_rate == pytest.approx(1e-4)
    assert parse(flags).training.base_learning_rate == pytest.approx(1.5e-5)
    assert parse([*flags, "--learning-rate", "0.5"]).training.learning_rate == 0.5
    assert parse(flags[2:]).training.base_learning_rate == 1.5e-4
    assert parse([*flags, "--fidelity", "authors-code"]).backbone.num_heads is None


def test_another_objective_than_that_of_the_heads_is_said(photographs, tmp_path, caplog):
    pretraining = {**SMALL, "noise_std": 0.1, "num_mixup": 64}
    SynCoForPreTraining(SynCoConfig(backbone="vit-nano", depth=1, pretraining=pretraining)).save_pretrained(
        tmp_path / "state"
    )

    def lines(*flags):
        caplog.clear()
        run(photographs, tmp_path / f"run{len(flags)}", "--start-from", tmp_path / "state", "--max-steps", 1, *flags)
        return [record.message for record in caplog.records if record.message.startswith("objective:")]

    said = lines()
    assert said == [
        "objective: the start's heads are of a training with --num-mixup 64 --noise-std 0.1, this one has 128, 0.01: "
        "give these flags to go on with theirs."
    ]
    assert not lines("--num-mixup", 64, "--noise-std", 0.1)
    assert not lines("--projection-dim", 4)


def test_heads_and_queues_of_the_same_method_and_shapes_are_taken(tmp_path):
    torch.manual_seed(0)
    config = SynCoConfig(backbone="vit-nano", depth=1, pretraining={"method": "moby", **SMALL})
    network = SynCoForPreTraining(config)
    for parameter in network.parameters():
        parameter.data += 0.01 * torch.randn_like(parameter)
    network.save_pretrained(tmp_path / "state")
    state = network.state_dict()

    def take(**settings):
        model = SynCoForPreTraining.from_backbone(tmp_path / "state", {"method": "moby", **SMALL, **settings})
        return model, model.state_dict()

    model, taken = take()
    assert (model.start["heads"], model.start["queues"]) == ("the start's", "the start's")
    for key in ("synco.backbone.cls_token", "projector.0.weight", "predictor.1.running_mean", "queue_1.keys"):
        assert torch.equal(taken[key], state[key])
    for online, target in (("synco", "target"), ("projector", "target_projector")):
        assert all(
            torch.equal(value, taken[key.replace(f"{online}.", f"{target}.", 1)])
            for key, value in taken.items()
            if key.startswith(f"{online}.")
        )
    assert not any(parameter.requires_grad for parameter in model.target.parameters())
    model, taken = take(queue_size=32)
    assert model.start["queues"] == "drawn anew: queue_1.keys was (16, 8) and is (32, 8)"
    assert torch.equal(taken["projector.0.weight"], state["projector.0.weight"])
    model, taken = take(method="synco-v2")
    assert model.start["heads"] == "drawn anew: they are of moby, this is synco-v2"
    assert not torch.equal(taken["projector.0.weight"], state["projector.0.weight"])
    assert model.starts_with_random_heads
    model, _ = take(projection_dim=4, method="byol")
    assert "queues" not in model.start


def test_at_first_heads_learn_alone_and_synthesis_waits_for_a_full_queue(own, photographs, tmp_path):
    processor = AutoImageProcessor.from_pretrained(own)
    model = SynCoForPreTraining.from_backbone(own, SMALL)
    arguments = SynCoTrainingArguments(
        str(tmp_path), max_steps=40, per_device_train_batch_size=2, use_cpu=True, learning_rate=1.0, warmup_epochs=0.5,
        synthetic_warmup_epochs=0, dataloader_num_workers=0,
    )  # fmt: skip
    images = [{"image": Image.new("RGB", (40, 40), (index, 0, 0))} for index in range(16)]
    trainer = SynCoTrainer(model, arguments, images)
    assert trainer._transform.parameters.mean == pytest.approx((0.4, 0.5, 0.6))
    assert trainer.processing_class is model.image_processor
    assert list(processor.image_mean) == list(trainer.processing_class.image_mean)
    trainer.state.max_steps = 40
    # 16 keys in steps of two images.
    assert trainer.synthesis_window.start == 8
    frozen = round(start_settings.START_FROZEN_FRACTION * 40)
    assert trainer.count_frozen_steps(40) == frozen
    trainer.create_optimizer_and_scheduler(40)
    scheduler, groups = trainer.lr_scheduler, trainer.optimizer.param_groups
    heads, last = groups[0], next(group for group in groups if group["part"] == "backbone")
    for step in range(12):
        whole = learning_rate_factor(step, 40, 4)
        assert heads["lr"] == pytest.approx(whole)
        assert last["lr"] == pytest.approx(whole * frozen_backbone_factor(step, frozen, 4))
        assert (last["lr"] == 0) == (step < max(frozen, 1))
        scheduler.step()
    assert groups[-1]["initial_lr"] == pytest.approx(start_settings.START_LAYER_DECAY**3)


def test_both_domains_are_measured_and_the_average_is_saved(own, photographs, tmp_path, caplog):
    flags = ("--knn-every-epochs", "0.5", "--keep-dataset", FRACTALS, "--save-average", "--learning-rate", "1e-3")
    run(photographs, tmp_path / "run", "--start-from", own, *flags)
    summary = read(tmp_path / "run" / "pretraining_summary.json")
    assert all({"knn_top1_k10", "knn_keep_top1_k10"} <= set(entry) for entry in summary["knn"])
    assert [each["num_images"] for each in summary["knn_data"]["kept"]] == [24, 8]
    assert "On the domain to keep k-NN top-1" in caplog.text
    report = read(tmp_path / "run" / "average" / AVERAGE_FILE)
    assert len(report["points"]) == 11
    assert report["recommended"] in report["points"]
    AutoModel.from_pretrained(tmp_path / "run" / "average")


def test_images_without_classes_leave_the_domain_to_keep(own, photographs, tmp_path, caplog):
    flat = tmp_path / "flat"
    flat.mkdir()
    for file in photographs.rglob("*.png"):
        shutil.copy(file, flat / file.name)
    run(flat, tmp_path / "run", "--start-from", own, "--knn-every-epochs", "1", "--keep-dataset", FRACTALS)
    assert "k-NN is measured on --keep-dataset alone" in caplog.text
    summary = read(tmp_path / "run" / "pretraining_summary.json")
    assert all("knn_keep_top1_k10" in entry and "knn_top1_k10" not in entry for entry in summary["knn"])
    assert (tmp_path / "run" / "training_curve.png").is_file()


def test_a_stock_vit_is_continued_and_bad_licences_are_said(photographs, tmp_path, caplog):
    shape = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 48}
    ViTModel(ViTConfig(image_size=32, patch_size=8, **shape)).save_pretrained(tmp_path / "stock")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "stock")
    (tmp_path / "stock" / "README.md").write_text("---\nlicense: cc-by-nc-nd-4.0\n---\n")
    run(photographs, tmp_path / "run", "--start-from", tmp_path / "stock")
    assert "pooler" in caplog.text
    assert "lets nobody pass on what is made from it" in caplog.text
    assert "licence: cc-by-nc-nd-4.0" in (tmp_path / "run" / "README.md").read_text()
    model = AutoModel.from_pretrained(tmp_path / "run")
    assert (model.config.hidden_size, model.config.position_embedding) == (24, "learned")
    assert list(AutoImageProcessor.from_pretrained(tmp_path / "run").image_mean) == [0.5] * 3


def test_a_file_in_dinos_layout_is_continued(photographs, tmp_path):
    online, target = (vit(48, num_heads=3, sincos=False, seed=seed) for seed in (1, 2))
    torch.save(dino(online, target), tmp_path / "dino.pth")
    run(photographs, tmp_path / "run", "--start-from", tmp_path / "dino.pth", "--image-size", "32", "--num-heads", "3")
    model = AutoModel.from_pretrained(tmp_path / "run")
    moved = (model.backbone.cls_token - target.cls_token).abs().max()
    assert moved < 0.1 < (target.cls_token - online.cls_token).abs().max()


def test_another_start_is_refused_from_python_too(own, photographs, tmp_path):
    run(photographs, tmp_path / "run", "--start-from", own)
    images = [{"image": Image.new("RGB", (40, 40), (index, 0, 0))} for index in range(16)]
    arguments = SynCoTrainingArguments(
        str(tmp_path / "run"), max_steps=6, per_device_train_batch_size=4, use_cpu=True, resume=True
    )
    config = SynCoConfig(backbone="vit-nano", depth=2, pretraining=SMALL)
    with pytest.raises(ValueError, match=r"began with own .* as if with random weights"):
        SynCoTrainer(SynCoForPreTraining(config), arguments, images).train()
