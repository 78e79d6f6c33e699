import dataclasses

import pytest
from transformers import TrainingArguments

from trainers.classification.arguments import FineTuningArguments, LinearProbeArguments
from trainers.classification.settings import FineTuningOptions, LabelledDataArguments, LinearProbeOptions
from trainers.refusals import LINEAR_PROBE_DOES_OTHERWISE


def test_defaults_are_the_papers(tmp_path):
    probe = LinearProbeArguments(output_dir=str(tmp_path), use_cpu=True)
    assert (probe.num_train_epochs, probe.momentum, probe.weight_decay, probe.label_smoothing) == (100, 0.9, 0.0, 0.1)
    assert probe.max_grad_norm == 0
    assert probe.base_rates("imagenet-1k") == (0.1, 0.5, 0.75, 1.0, 1.25, 1.5)
    assert probe.base_rates("/data/ImageNet/") == (0.1, 0.5, 0.75, 1.0, 1.25, 1.5)
    assert probe.base_rates("fractals") == (1.0,)
    assert probe.count_warmup_steps(1000, 10) == 50
    tuning = FineTuningArguments(output_dir=str(tmp_path), use_cpu=True)
    assert (tuning.num_train_epochs, tuning.momentum, tuning.weight_decay) == (100, 0.9, 1e-4)
    assert (tuning.classifier_dropout, tuning.max_grad_norm, tuning.label_smoothing) == (0.1, 1.0, 0.1)
    assert tuning.count_warmup_steps(1000, 10) == 100


def test_a_run_shorter_than_the_papers_shortest_gets_a_rate_that_moves_its_head(tmp_path, caplog):
    arguments = {"output_dir": str(tmp_path), "use_cpu": True}

    def choose(num_images: int, **more: object) -> FineTuningArguments:
        tuning = FineTuningArguments(**arguments, **more)
        tuning.fit_to(num_images)
        return tuning

    # Flowers-102, the smallest of the paper's sets, and all larger ones have the paper's rate.
    for images in (2_040, 1_281_167):
        assert (choose(images).base_learning_rate, choose(images).learning_rate) == (1e-3, pytest.approx(2.5e-4))
    assert not caplog.text
    # Rate × images is the same however the epochs are counted, and the batch scales it.
    assert choose(300, num_train_epochs=20).base_learning_rate == pytest.approx(2000 / 6000)
    assert choose(300, num_train_epochs=20).learning_rate == pytest.approx(2000 / 6000 / 4)
    assert choose(300, max_steps=100).base_learning_rate == pytest.approx(2000 / 12800)
    assert choose(300, max_steps=1).base_learning_rate == 1.0
    assert "--base-learning-rate 0.333, since the run sees 6000 images" in caplog.text
    # What is given stays.
    assert choose(300, base_learning_rate=1e-3).learning_rate == pytest.approx(2.5e-4)
    assert choose(300, learning_rate=0.5).learning_rate == 0.5


def test_rates_are_scaled_by_the_batch_over_512(tmp_path):
    arguments = {"output_dir": str(tmp_path), "use_cpu": True, "per_device_train_batch_size": 64}
    tuning = FineTuningArguments(gradient_accumulation_steps=4, **arguments)
    assert tuning.learning_rate == pytest.approx(1e-3 * 256 / 512)
    assert FineTuningArguments(learning_rate=0.3, **arguments).learning_rate == 0.3
    assert LinearProbeArguments(**arguments).scaled(1.5) == pytest.approx(1.5 / 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"learning_rates": [0.1, 0.1]}, "names a rate twice"),
        ({"learning_rates": [-1.0]}, "above 0"),
        ({"label_smoothing": 1.0}, "label_smoothing=1.0"),
        ({"save_total_limit": 1}, "save_total_limit=1"),
    ],
)
def test_bad_input(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        LinearProbeArguments(output_dir=str(tmp_path), use_cpu=True, **arguments)


def test_a_model_is_needed():
    with pytest.raises(ValueError, match="--model is missing"):
        LabelledDataArguments()


@pytest.mark.parametrize(
    ("options", "arguments"), [(LinearProbeOptions, LinearProbeArguments), (FineTuningOptions, FineTuningArguments)]
)
def test_what_is_ours_wins_and_what_every_run_meets_is_the_trainers(options, arguments):
    trainers = {field.name: field.default for field in dataclasses.fields(TrainingArguments)}
    ours = {field.name: field.default for field in dataclasses.fields(options)}
    found = {field.name: field.default for field in dataclasses.fields(arguments)}
    assert {name: found[name] for name in ours} == ours
    assert {name for name, default in trainers.items() if found[name] != default} <= {
        *ours,
        *LINEAR_PROBE_DOES_OTHERWISE,
    }
    for name in ("output_dir", "max_steps", "gradient_accumulation_steps", "seed", "use_cpu"):
        assert ours[name] == trainers[name], name
