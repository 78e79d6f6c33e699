import dataclasses
import math

import pytest
from transformers import HfArgumentParser, TrainingArguments

from trainers.pretraining_arguments import SynCoTrainingArguments
from trainers.settings import PretrainingOptions, PretrainingSettings


def arguments(tmp_path, **values: object) -> SynCoTrainingArguments:
    return SynCoTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **values)


def test_settings_default_to_section_7_4():
    settings = PretrainingSettings()
    assert (settings.queue_size, settings.temperature, settings.num_hard_negatives) == (4096, 0.2, 256)
    assert list(settings.counts.values()) == [128] * 6
    assert sum(settings.counts.values()) == 768
    assert (settings.online_drop_path_rate, settings.target_drop_path_rate) == (0.2, 0.0)
    assert (settings.projection_hidden_dim, settings.projection_dim) == (4096, 256)
    ranges = (settings.interpolation_max, settings.extrapolation_max, settings.mixup_max)
    assert ranges == (0.5, 1.5, 1.0)
    assert {settings.noise_std, settings.gradient_step, settings.adversarial_step} == {0.01}
    assert PretrainingSettings(method="byol").online_drop_path_rate == 0.0


def test_training_defaults_are_the_papers_and_not_the_trainers(tmp_path):
    args = arguments(tmp_path)
    assert args.num_train_epochs == 300
    assert args.weight_decay == 0.1
    assert args.max_grad_norm == 0.0
    assert args.momentum_start == 0.99
    assert (args.adam_beta1, args.adam_beta2, args.adam_epsilon) == (0.9, 0.999, 1e-8)
    assert "adamw" in args.optim.value
    assert not args.logging_nan_inf_filter
    assert not args.remove_unused_columns
    assert args.count_warmup_steps(300 * 2502, 2502) == 40 * 2502


def test_learning_rate_is_scaled_with_the_batch_unless_it_is_given(tmp_path):
    assert arguments(tmp_path, per_device_train_batch_size=512).learning_rate == pytest.approx(1.5e-4)
    scaled = arguments(tmp_path, per_device_train_batch_size=512, gradient_accumulation_steps=8)
    assert scaled.global_batch_size == 4096
    assert scaled.learning_rate == pytest.approx(1.2e-3)
    assert arguments(tmp_path, per_device_train_batch_size=512, learning_rate=3e-3).learning_rate == 3e-3
    assert arguments(tmp_path, learning_rate=0.0).learning_rate == 0.0
    assert arguments(tmp_path, warmup_epochs=2).count_warmup_steps(1000, 10) == 20


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "mobi"}, "Did you mean 'moby'"),
        ({"queue_size": 100}, "num_hard_negatives=256 exceeds queue_size=100"),
        ({"queue_size": 0}, "queue_size=0"),
        ({"num_hard_negatives": -1}, "num_hard_negatives=-1"),
        ({"num_mixup": -5}, "num_mixup=-5"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"temperature": -0.2}, "temperature=-0.2"),
        ({"head_norm": "layer"}, "head_norm='layer'"),
    ],
)
def test_bad_settings_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        PretrainingSettings(**values)


def test_a_small_queue_is_fine_where_nothing_is_synthesised():
    assert PretrainingSettings(method="moby", queue_size=100).queue_size == 100


def test_settings_survive_plain_data_and_refuse_unknown_keys():
    settings = PretrainingSettings(method="moby", queue_size=64)
    assert PretrainingSettings.from_dict(dataclasses.asdict(settings)) == settings
    with pytest.raises(ValueError, match="Did you mean 'queue_size'"):
        PretrainingSettings.from_dict({"queue_sise": 3})


def test_views_are_distorted_in_the_worker_without_a_gpu_and_where_it_is_said(tmp_path):
    for asked, resolved in (("auto", "worker"), ("device", "device"), ("worker", "worker")):
        args = SynCoTrainingArguments(output_dir=str(tmp_path), use_cpu=True, augment_on=asked)
        assert args.augment_on == resolved
        assert not args.accelerator_config.non_blocking
    for unknown in ("gpu", "reference"):
        with pytest.raises(ValueError, match=rf"--augment-on {unknown}"):
            SynCoTrainingArguments(output_dir=str(tmp_path), use_cpu=True, augment_on=unknown)


def test_keeping_a_single_checkpoint_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least 2"):
        arguments(tmp_path, save_total_limit=1)


def test_every_field_is_a_flag_with_dashes_or_underscores(tmp_path):
    parser = HfArgumentParser((PretrainingSettings, SynCoTrainingArguments))
    settings, args = parser.parse_args_into_dataclasses(
        [
            "--method",
            "moby",
            "--queue-size",
            "64",
            "--num_mixup",
            "3",
            "--output-dir",
            str(tmp_path),
            "--use-cpu",
            "--base-learning-rate",
            "1e-3",
            "--resume",
            "--per-device-train-batch-size",
            "512",
        ]
    )
    assert (settings.method, settings.queue_size, settings.num_mixup) == ("moby", 64, 3)
    assert args.resume
    assert args.learning_rate == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"lr_scheduler_type": "constant"}, "--warmup-epochs"),
        ({"dataloader_drop_last": False}, "full batches"),
        ({"save_only_model": True}, "could not be continued"),
        ({"per_device_train_batch_size": 0}, "--per-device-train-batch-size 0: give at least 1"),
        ({"knn_every_epochs": 0}, "--knn-every-epochs 0: give more than 0"),
        ({"learning_rate": math.nan}, "--learning-rate nan"),
    ],
)
def test_the_arguments_refuse_them(values, text, tmp_path):
    with pytest.raises(ValueError, match=text):
        SynCoTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **values)
    SynCoTrainingArguments(output_dir=str(tmp_path), use_cpu=True, lr_scheduler_type="cosine", learning_rate=0.0)


def test_what_is_ours_wins_and_what_every_run_meets_is_the_trainers():
    """The flags of the short help say what a run does."""
    trainers = {field.name: field.default for field in dataclasses.fields(TrainingArguments)}
    ours = {field.name: field.default for field in dataclasses.fields(PretrainingOptions)}
    found = {field.name: field.default for field in dataclasses.fields(SynCoTrainingArguments)}
    assert {name: found[name] for name in ours} == ours
    # These two say what is done, and nothing else may be given.
    others = [name for name in trainers if name not in (*ours, "do_train", "lr_scheduler_type")]
    assert {name: found[name] for name in others} == {name: trainers[name] for name in others}
    for name in ("output_dir", "max_steps", "gradient_accumulation_steps", "seed", "bf16", "use_cpu", "save_steps"):
        assert ours[name] == trainers[name], name
