"""`trainers.classification.fine_tune`, by its command: the result, the classifier, and going on after a stop."""

import json
import re

import pytest
import torch
from data_trees.original import imagenet_with_official_names
from PIL import Image
from transformers import AutoModelForImageClassification, ViTConfig, ViTImageProcessor, ViTModel, pipeline

from synco_hub.data import load_dataset
from synco_hub.models import SynCoConfig, SynCoModel, image_processor
from synco_hub.results import EvaluationResult
from trainers.classification.trainer import FineTuningTrainer
from trainers.fine_tune import main
from trainers.linear_probe import main as probe_main

DATA = "fractals:num_classes=5,train_images_per_class=12,test_images_per_class=6"
QUICK = "--use-cpu --dataloader-num-workers 0 --disable-tqdm true --per-device-train-batch-size 20 --logging-steps 1"


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path_factory.getbasetemp() / "probe-home"))


STOCK = ViTConfig(
    hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
)


@pytest.fixture
def model(tmp_path, request):
    torch.manual_seed(0)
    stock = getattr(request, "param", "synco") == "stock"
    network = ViTModel(STOCK) if stock else SynCoModel(SynCoConfig(backbone="vit-nano", depth=1))
    network.save_pretrained(tmp_path / "model")
    image_processor(32).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def tune(model, output, *flags: str) -> EvaluationResult:
    main([*QUICK.split(), "--model", str(model), "--dataset", DATA, "--output-dir", str(output), *flags])
    return EvaluationResult.load(output / "fine_tune.json", protocol="fine_tune")


def test_a_pipeline_loads_what_was_tuned_and_resume_ends_at_the_same_bits(model, tmp_path):
    flags = ["--num-train-epochs", "2", "--learning-rate", "0.01"]
    whole = tune(model, tmp_path / "whole", *flags)
    images = load_dataset(DATA, "test", image_size=32)
    answer = pipeline("image-classification", model=str(tmp_path / "whole"))(images.load_image(0))
    assert {entry["label"] for entry in answer} == set(images.class_names)
    tuned = AutoModelForImageClassification.from_pretrained(tmp_path / "whole")
    assert tuned.config.classifier_dropout == 0.1
    before = SynCoModel.from_pretrained(model).state_dict()
    assert any(not torch.equal(before[name], weights) for name, weights in tuned.synco.state_dict().items())
    assert whole.protocol.parameters["learning_rate"] == 0.01
    assert whole.protocol.parameters["learning_rate_rule"] == "as given"
    # Weights can be read by whoever can read the text files beside them.
    assert len({path.stat().st_mode for path in (tmp_path / "whole").rglob("*") if path.is_file()}) == 1

    tune(model, tmp_path / "stopped", *flags)
    last = max((tmp_path / "stopped").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    last.rename(tmp_path / "moved")
    resumed = tune(model, tmp_path / "stopped", *flags, "--resume")
    assert resumed.metrics == whole.metrics
    files = [tmp_path / run / "model.safetensors" for run in ("whole", "stopped")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_another_image_size_is_the_models_the_processors_and_the_pipelines(model, tmp_path):
    result = tune(model, tmp_path / "larger", "--max-steps", "2", "--image-size", "48")
    assert result.preprocessing["image_size"] == result.protocol.parameters["image_size"] == 48
    tuned = AutoModelForImageClassification.from_pretrained(tmp_path / "larger")
    assert tuned.config.image_size == 48
    assert not tuned.synco.backbone.pos_embed.requires_grad
    image = load_dataset(DATA, "test", image_size=64).load_image(0)
    assert len(pipeline("image-classification", model=str(tmp_path / "larger"))(image)) == 5


def test_a_stock_vit_is_tuned_too(tmp_path, capsys):
    ViTModel(STOCK, add_pooling_layer=False).save_pretrained(tmp_path / "vit")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vit")
    result = tune(tmp_path / "vit", tmp_path / "run", "--max-steps", "2")
    assert result.partial
    loaded, info = AutoModelForImageClassification.from_pretrained(tmp_path / "run", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert loaded.config.num_labels == 5
    with pytest.raises(SystemExit):
        tune(tmp_path / "vit", tmp_path / "larger", "--max-steps", "2", "--image-size", "48")
    assert "synco-hub convert --image-size" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "timm:vit_tiny_patch16_224"], "give timm/vit_tiny_patch16_224"),
        (["--classifier-dropout", "1"], "classifier_dropout=1.0"),
        (["--dataset", "fractal"], "fractals"),
        (["--model", ""], "--model is missing"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(model, tmp_path, capsys, flags, message):
    with pytest.raises(SystemExit) as exit_info:
        tune(model, tmp_path / "run", *flags)
    assert exit_info.value.code == 1
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_weights_that_are_no_numbers_are_never_the_result(model, tmp_path, capsys):
    flags = ["--max-steps", "12", "--learning-rate", "1e30", "--logging-strategy", "no", "--save-strategy", "no"]
    with pytest.raises(SystemExit) as ended:
        tune(model, tmp_path / "run", *flags)
    assert ended.value.code == 1
    *_, last = capsys.readouterr().err.strip().splitlines()
    assert last.startswith("error: ")
    assert "ower the learning rate" in last
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["classification_settings.json"]


def test_a_run_that_ended_before_its_last_step_is_partial(model, tmp_path, monkeypatch):
    assert not tune(model, tmp_path / "whole", "--num-train-epochs", "1").partial
    log = FineTuningTrainer.log

    def stop_at_the_first_line(trainer, logs, *args) -> None:
        log(trainer, logs, *args)
        trainer.control.should_training_stop = True

    monkeypatch.setattr(FineTuningTrainer, "log", stop_at_the_first_line)
    result = tune(model, tmp_path / "ended", "--num-train-epochs", "2")
    assert result.partial


def test_a_finished_run_that_is_resumed_stays_as_it_is(model, tmp_path):
    flags = ["--num-train-epochs", "2", "--learning-rate", "0.01"]
    first = tune(model, tmp_path / "run", *flags)
    weights = (tmp_path / "run" / "model.safetensors").read_bytes()
    again = tune(model, tmp_path / "run", *flags, "--resume")
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == weights
    assert again.metrics == first.metrics
    assert not again.partial
    checkpoints = sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*"))
    assert checkpoints == ["checkpoint-3", "checkpoint-6"]


# The files of a stock ViT have other names than its weights in memory.
@pytest.mark.parametrize("model", ["synco", "stock"], indirect=True)
def test_a_named_checkpoint_is_continued(model, tmp_path):
    flags = ["--num-train-epochs", "2", "--learning-rate", "0.01"]
    whole = tune(model, tmp_path / "run", *flags)
    named = str(tmp_path / "run" / "checkpoint-3")
    assert tune(model, tmp_path / "other", *flags, "--resume-from-checkpoint", named).metrics == whole.metrics
    files = [tmp_path / run / "model.safetensors" for run in ("run", "other")]
    assert files[0].read_bytes() == files[1].read_bytes()


def stopped_at(output, number: int, lost) -> None:
    """As if the run had been killed: nothing after a checkpoint is there."""
    for path in list(output.iterdir()):
        late = path.name.startswith("checkpoint-") and int(path.name.split("-")[1]) > number
        if late or path.name in ("model.safetensors", "fine_tune.json"):
            path.rename(lost / f"{output.name}-{path.name}")


def test_the_folder_alone_resumes_a_run(model, tmp_path):
    whole = tune(model, tmp_path / "run", "--num-train-epochs", "2", "--learning-rate", "0.01")
    stopped_at(tmp_path / "run", 3, tmp_path)
    main(["--resume", "--output-dir", str(tmp_path / "run")])
    resumed = EvaluationResult.load(tmp_path / "run" / "fine_tune.json", protocol="fine_tune")
    assert resumed.metrics == whole.metrics
    assert resumed.protocol.parameters == whole.protocol.parameters


def test_a_run_of_an_earlier_version_goes_on_at_its_rate(model, tmp_path):
    # Then the default was the paper's 1e-3 whatever the length of the run.
    flags = ["--num-train-epochs", "2"]
    earlier = tune(model, tmp_path / "earlier", *flags, "--base-learning-rate", "1e-3")
    stopped_at(tmp_path / "earlier", 3, tmp_path)
    resumed = tune(model, tmp_path / "earlier", *flags, "--resume")
    assert resumed.protocol.parameters["base_learning_rate"] == 1e-3
    assert resumed.protocol.parameters["learning_rate_rule"] == "base x global batch / 512"
    assert resumed.metrics == earlier.metrics
    # One that begins now sees 2 × 60 images.
    assert tune(model, tmp_path / "new", *flags).protocol.parameters["base_learning_rate"] == 1.0


def test_by_default_a_small_set_is_learnt_at_least_as_well_as_by_a_linear_probe(model, tmp_path):
    tuned = tune(model, tmp_path / "tuned", "--num-train-epochs", "20")
    frozen = ["--num-train-epochs", "20", "--cached-features", "--model", str(model), "--dataset", DATA]
    probe_main([*QUICK.split(), *frozen, "--output-dir", str(tmp_path / "probe")])
    probe = EvaluationResult.load(tmp_path / "probe" / "linear_probe_cached.json")
    assert tuned.metrics["top1_last_epoch"] >= probe.metrics["top1_last_epoch"]
    paper = tune(model, tmp_path / "paper", "--num-train-epochs", "20", "--base-learning-rate", "1e-3")
    assert tuned.metrics["top1_last_epoch"] > paper.metrics["top1_last_epoch"] + 10


@pytest.mark.parametrize(
    ("model", "limit"), [("synco", []), ("synco", ["--save-total-limit", "3"]), ("stock", [])], indirect=["model"]
)
def test_what_is_kept_as_the_best_model_is_the_best_model(model, tmp_path, monkeypatch, limit):
    # Accuracy by epoch: the best one is neither the first, nor the last, nor the last but one.
    accuracy = [30.0, 70.0, 40.0, 50.0, 60.0]
    evaluate = FineTuningTrainer.evaluate

    def told(self, *arguments, **keywords):
        metrics = evaluate(self, *arguments, **keywords)
        metrics["eval_top1"] = accuracy[round(self.state.epoch) - 1]
        self.state.log_history[-1]["eval_top1"] = metrics["eval_top1"]
        return metrics

    monkeypatch.setattr(FineTuningTrainer, "evaluate", told)
    output = tmp_path / "run"
    flags = ["--num-train-epochs", "5", "--learning-rate", "0.1", "--load-best-model-at-end", *limit]
    result = tune(model, output, *flags)
    files = [output / name / "model.safetensors" for name in (".", "checkpoint-6", "checkpoint-15")]
    best, second, last = (file.read_bytes() for file in files)
    assert best == second != last
    assert result.metrics["top1_last_epoch"] == result.metrics["top1_best_epoch"] == 70.0
    assert result.protocol.parameters["epochs_trained"] == 2
    assert "the weights are those of step 6" in result.notes[0]
    state = json.loads((output / "checkpoint-15" / "trainer_state.json").read_text())
    assert state["best_model_checkpoint"] == str(output / "checkpoint-6")
    # A folder that moved has it, too.
    output.rename(tmp_path / "moved")
    tune(model, tmp_path / "moved", *flags, "--resume")
    assert (tmp_path / "moved" / "model.safetensors").read_bytes() == best


def test_a_metric_that_is_not_measured_is_no_way_to_choose(model, tmp_path, capsys):
    flags = ["--num-train-epochs", "1", "--save-strategy", "best", "--metric-for-best-model", "loss"]
    with pytest.raises(SystemExit):
        tune(model, tmp_path / "run", *flags)
    assert "--metric-for-best-model loss is not measured here: give one of top1" in capsys.readouterr().err


def test_weights_alone_are_never_continued(model, tmp_path, capsys):
    tune(model, tmp_path / "run", "--num-train-epochs", "2", "--save-only-model")
    stopped_at(tmp_path / "run", 3, tmp_path)
    with pytest.raises(SystemExit):
        main(["--resume", "--output-dir", str(tmp_path / "run")])
    assert "has no optimizer.pt (--save-only-model leaves it out)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("train", "fails", "line"),
    [
        (
            main,
            0,
            "training 20 images of 32 pixels with vit-nano .*: give --per-device-train-batch-size 10 .*, or --gra",
        ),
        (main, 3, "measuring 256 images of 32 pixels with vit-nano .*: give --per-device-eval-batch-size 128"),
        (
            probe_main,
            3,
            "training 20 images of 32 pixels with vit-nano .*: give --per-device-train-batch-size 10 [^,]*,",
        ),
    ],
)
def test_a_batch_that_does_not_fit_says_which_and_what_would(model, tmp_path, monkeypatch, capsys, train, fails, line):
    calls: list[int] = []

    def full(self, *args):
        calls.append(1)
        if len(calls) > fails:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.")

    monkeypatch.setattr(SynCoModel, "_check_input", full)  # the first thing that a forward does
    flags = [*QUICK.split(), "--model", str(model), "--dataset", DATA, "--output-dir", str(tmp_path / "run")]
    with pytest.raises(SystemExit):
        train([*flags, "--num-train-epochs", "1"])
    assert re.search(line, capsys.readouterr().err.splitlines()[-1])


@pytest.mark.parametrize("model", ["synco", "stock"], indirect=True)
def test_lower_blocks_learn_less_and_a_resume_ends_at_the_same_bits(model, tmp_path):
    flags = ["--num-train-epochs", "2", "--learning-rate", "0.05", "--layer-decay", "1e-6", "--weight-decay", "0"]
    result = tune(model, tmp_path / "run", *flags)
    assert result.protocol.parameters["layer_decay"] == 1e-6
    before = AutoModelForImageClassification.from_pretrained(model, num_labels=5, ignore_mismatched_sizes=True)
    after = AutoModelForImageClassification.from_pretrained(tmp_path / "run").state_dict()
    moved = {
        name: float((after[name] - weights).abs().max())
        for name, weights in before.state_dict().items()
        if weights.is_floating_point() and not name.startswith("classifier")
    }
    assert all(way < 1e-6 for name, way in moved.items() if "embed" in name or "cls_token" in name)
    assert max(way for name, way in moved.items() if name.endswith(("norm.weight", "layernorm.bias"))) > 1e-5
    last = max((tmp_path / "run").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    for path in (last, tmp_path / "run" / "model.safetensors", tmp_path / "run" / "fine_tune.json"):
        path.rename(tmp_path / path.name)
    main(["--resume", "--output-dir", str(tmp_path / "run")])
    names = [folder / "model.safetensors" for folder in (last, tmp_path / last.name)]
    assert names[0].read_bytes() == names[1].read_bytes()


def test_a_layer_decay_that_is_none_is_refused(model, tmp_path, capsys):
    with pytest.raises(SystemExit):
        tune(model, tmp_path / "run", "--layer-decay", "0")
    assert "--layer-decay 0: give a number above 0 and up to 1" in capsys.readouterr().err


def test_on_imagenets_validation_images_real_accuracy_stands_beside_top_1(model, tmp_path):
    tree = imagenet_with_official_names(tmp_path / "imagenet", side=32)
    at = [
        "--dataset",
        "imagenet-1k",
        "--data-dir",
        str(tree.root),
        "--learning-rate",
        "0.3",
        "--num-train-epochs",
        "6",
    ]
    result = tune(model, tmp_path / "run", *at)
    network, processor = AutoModelForImageClassification.from_pretrained(tmp_path / "run").eval(), image_processor(32)
    right = []
    for path in (tree.root / "val").rglob("*.JPEG"):
        with torch.no_grad():
            guess = int(network(**processor(Image.open(path), return_tensors="pt")).logits.argmax())
        right += [guess in labels for labels in [tree.real[path.name]] if labels]
    assert result.metrics["top1_real_last_epoch"] == pytest.approx(100 * sum(right) / len(right))
    assert result.metrics["top1_real_best_epoch"] >= 0
    assert f"ReaL: {14 - len(right)} of 14 images have no right class in it and do not count" in result.notes
