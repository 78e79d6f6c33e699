import pytest

from synco_hub.models import SynCoConfig
from synco_hub.results import EvaluationResult
from trainers.pretraining_model import SynCoForPreTraining
from trainers.step_time import IMAGENET_IMAGES, StepSettings, hours, main, measure_step

SMALL = {"queue_size": 32, "num_hard_negatives": 8, "projection_hidden_dim": 16, "projection_dim": 8}


def small(method: str, **numbers: int) -> SynCoForPreTraining:
    pretraining = {**SMALL, "method": method}
    return SynCoForPreTraining(SynCoConfig(backbone="vit-nano", depth=1, pretraining=pretraining, **numbers))


@pytest.mark.parametrize("method", ["synco-v2", "moby", "byol"])
def test_a_step_is_measured_with_all_numbers_of_table_15(method):
    model = small(method)
    before = model.synco.backbone.norm.weight.clone()
    settings = StepSettings(method, "vit-nano", batch_size=4, processes=2, steps=3, warmup=1)
    metrics = measure_step(settings, model).metrics
    seconds = metrics["step_milliseconds"] / 1e3
    assert metrics["minutes_per_imagenet_epoch"] == pytest.approx(IMAGENET_IMAGES / 8 * seconds / 60)
    assert metrics["images_per_second"] == pytest.approx(8 / seconds)
    assert metrics["trainable_percent"] == pytest.approx(
        100 * metrics["trainable_parameters_m"] / metrics["total_parameters_m"]
    )
    assert ("synthesis_overhead_percent" in metrics) == (method == "synco-v2")
    # It is a real step: weights move.
    assert (before - model.synco.backbone.norm.weight).abs().max() > 0


def test_a_network_of_one_channel_is_stepped_with_images_of_one():
    settings = StepSettings("byol", "vit-nano", batch_size=4, steps=1, warmup=0)
    metrics = measure_step(settings, small("byol", num_channels=1)).metrics
    assert metrics["total_parameters_m"] < measure_step(settings, small("byol")).metrics["total_parameters_m"]


def test_hours_follow_from_the_window():
    # 170 of 300 epochs are active.
    assert hours(300, 30.0, 36.0) == pytest.approx((170 * 36 + 130 * 30) / 60)
    assert hours(300, 31.6, 31.6) == pytest.approx(158.0)
    assert hours(100, 30.0, 30.0) == pytest.approx(50.0)


def test_the_command_writes_a_result(tmp_path):
    file = tmp_path / "step.json"
    main(["--backbone=vit-nano", "--method=byol", "--batch-size=2", "--steps=1", "--warmup=0", f"--output={file}"])
    result = EvaluationResult.load(file, "step_time")
    assert result.model.name == "byol-vit-nano"
    assert result.protocol.parameters["batch_size"] == 2


def test_a_step_with_fewer_tokens_is_measured_also_of_a_network_that_was_trained_with_all(tmp_path, monkeypatch):
    SynCoConfig(backbone="vit-nano", depth=1, pretraining={**SMALL, "token_dropout": 0.0}).save_pretrained(tmp_path)
    seen: list[float] = []
    forward = SynCoForPreTraining.forward
    monkeypatch.setattr(
        SynCoForPreTraining,
        "forward",
        lambda self, *views, **options: (
            seen.append(self.synco.backbone.patch_drop.prob) or forward(self, *views, **options)
        ),
    )
    for source in ("--backbone=vit-nano", f"--config={tmp_path}"):
        file = tmp_path / "step.json"
        flags = ["--method=byol", "--batch-size=2", "--steps=1", "--warmup=0", "--token-dropout=0.75"]
        main([source, *flags, f"--output={file}"])
        result = EvaluationResult.load(file, "step_time")
        assert result.protocol.parameters["token_dropout"] == 0.75
    assert seen == [0.75, 0.75]


@pytest.mark.parametrize("flag", ["--steps=0", "--precision=int8", "--method=mobi", "--token-dropout=1"])
def test_impossible_settings_are_one_line(tmp_path, capsys, flag):
    with pytest.raises(SystemExit):
        main(["--backbone=vit-nano", "--batch-size=2", flag, f"--output={tmp_path / 'x.json'}"])
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "x.json").exists()
