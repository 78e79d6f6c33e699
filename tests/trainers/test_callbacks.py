import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from synco_hub.data import EpochSampler
from trainers import callbacks
from trainers.callbacks import (
    PATIENCE,
    CollapseCallback,
    ContinuedTensorBoardCallback,
    EpochCallback,
    GradientNormCallback,
    ImageProgressCallback,
    LastLogCallback,
    TargetUpdateCallback,
    TrainBeginCallback,
    TrainingMonitor,
    compute_chance_loss,
    compute_gradient_norm,
)
from trainers.info_nce import info_nce
from trainers.pretraining_model import PretrainingOutput


def state(**values: object) -> SimpleNamespace:
    return SimpleNamespace(**{"global_step": 0, "max_steps": 10, "logging_steps": 3, "epoch": 0.0, **values})


def test_the_target_is_left_alone_when_the_optimizer_step_was_skipped():
    momenta: list[float] = []
    trainer = SimpleNamespace(
        accelerator=SimpleNamespace(optimizer_step_was_skipped=True),
        unwrapped_model=SimpleNamespace(update_target_network=momenta.append),
        args=SimpleNamespace(momentum_start=0.5),
    )
    callback = TargetUpdateCallback(trainer)
    callback.on_optimizer_step(trainer.args, state(), None)
    assert momenta == []
    trainer.accelerator.optimizer_step_was_skipped = False
    callback.on_optimizer_step(trainer.args, state(global_step=9), None)
    assert momenta == [1.0]


def test_the_gradient_norm_is_taken_at_logged_steps_only():
    taken: list[int] = []
    trainer = SimpleNamespace()
    callback = GradientNormCallback(trainer)
    for step in range(10):
        trainer.remember_gradient_norm = lambda step=step: taken.append(step + 1)
        callback.on_pre_optimizer_step(
            SimpleNamespace(logging_first_step=False, logging_strategy="steps"), state(global_step=step), None
        )
    # The run has 10 steps, and its last one is logged.
    assert taken == [3, 6, 9, 10]


@pytest.mark.parametrize("step", [0, 1])
def test_the_gradient_norm_of_the_first_step_is_taken_if_that_is_logged(step):
    taken: list[int] = []
    trainer = SimpleNamespace(remember_gradient_norm=lambda: taken.append(step))
    GradientNormCallback(trainer).on_pre_optimizer_step(
        SimpleNamespace(logging_first_step=True, logging_strategy="steps"), state(global_step=step), None
    )
    assert taken == ([0] if step == 0 else [])


@pytest.mark.parametrize(("epoch", "expected"), [(None, 0), (0.0, 0), (1.999999, 1), (2.0, 2), (3 - 1e-12, 3)])
def test_the_sampler_hears_of_the_epoch(epoch, expected):
    trainer = SimpleNamespace(epoch_sampler=EpochSampler(4))
    EpochCallback(trainer).on_epoch_begin(None, state(epoch=epoch), None)
    assert trainer.epoch_sampler.epoch == expected


def test_the_bar_counts_images_and_starts_where_a_resumed_run_was(capsys):
    callback = ImageProgressCallback(SimpleNamespace(args=SimpleNamespace(global_batch_size=8)))
    now = state(global_step=4, is_world_process_zero=True)
    callback.on_train_begin(None, now, None)
    assert (callback.training_bar.n, callback.training_bar.total) == (32, 80)
    now.global_step = 6
    callback.on_step_end(None, now, None)
    assert callback.training_bar.n == 48
    assert "images/s" in str(callback.training_bar)
    callback.on_train_end(None, now, None)
    assert " images" in capsys.readouterr().err
    other = ImageProgressCallback(SimpleNamespace(args=SimpleNamespace(global_batch_size=8)))
    elsewhere = state(is_world_process_zero=False)
    other.on_train_begin(None, elsewhere, None)
    other.on_step_end(None, elsewhere, None)
    assert other.training_bar is None


@pytest.mark.parametrize(("strategy", "logged"), [("steps", True), ("epoch", True), ("no", False)])
def test_the_last_step_is_logged_unless_nothing_is(strategy, logged):
    for step in (1, 9, 10):
        control = SimpleNamespace(should_log=False)
        LastLogCallback().on_step_end(SimpleNamespace(logging_strategy=strategy), state(global_step=step), control)
        assert control.should_log == (logged and step == 10)


PEAK = 1e-3


class Reports:
    """Lines of a log, each after so many steps at a rate."""

    def __init__(self, queue_size: int | None = None, steps: int = 50) -> None:
        self.callback, self.steps, self.now = CollapseCallback(queue_size), steps, 0

    def __call__(self, rate: float = PEAK, **logs: float) -> None:
        self.now += self.steps
        logs = {"learning_rate": rate, **logs}
        self.callback.on_log(SimpleNamespace(learning_rate=PEAK), state(global_step=self.now), None, logs=logs)


def test_collapse_is_reported_once(caplog):
    report = Reports()
    for spread in (0.9, 0.04, 0.01):
        report(feature_std=spread)
    assert caplog.text.count("collapsing") == 1
    assert "0.0400" in caplog.text


def test_the_guessing_loss_is_infonce_when_all_vectors_are_the_same():
    vector = torch.nn.functional.normalize(torch.ones(3, 4), dim=1)
    loss = info_nce(vector, vector, vector[:1].expand(50, 4), 0.2).loss
    assert compute_chance_loss(50, num_directions=1) == pytest.approx(float(loss), rel=1e-6)
    assert compute_chance_loss(4096) == pytest.approx(2 * math.log(4097))


@pytest.mark.parametrize("num_synthetic", [0.0, 768.0])
def test_a_loss_of_a_guess_is_reported_when_it_stays(caplog, num_synthetic):
    report, guess = Reports(4096), compute_chance_loss(4096 + num_synthetic)
    values = {"contrast_accuracy": 0.2, "num_synthetic": num_synthetic}
    lines = round(PATIENCE / report.steps)
    for _ in range(lines - 1):
        report(loss=guess * 1.005, **values)
    report(loss=guess * 0.9, **values)
    assert caplog.text == ""
    for _ in range(lines + 2):
        report(loss=guess * 0.995, **values)
    assert caplog.text.count("a guess has") == 1
    assert "learning rate, which has come to 0.001" in caplog.text


@pytest.mark.parametrize("num_synthetic", [0.0, 768.0])
@pytest.mark.parametrize(("guesses", "stuck"), [(0.0, True), (1.0, True), (2.0, True), (2.0002, False), (3.0, False)])
def test_contrast_accuracy_of_two_guesses_is_reported_when_it_stays(caplog, num_synthetic, guesses, stuck):
    report = Reports(4096)
    values = {"contrast_accuracy": guesses / (4097 + num_synthetic), "num_synthetic": num_synthetic}
    for _ in range(round(PATIENCE / report.steps) - 1):
        report(loss=3.0, **values)
    assert caplog.text == ""
    report(loss=3.0, **values)
    assert ("contrast accuracy is stuck" in caplog.text) == stuck


@pytest.mark.parametrize("steps", [1, 10, 250])
def test_patience_is_counted_in_steps_and_not_in_lines(caplog, steps):
    report = Reports(4096, steps)
    while report.now < PATIENCE - steps:
        report(loss=3.0, contrast_accuracy=0.0)
    assert caplog.text == ""
    report(loss=3.0, contrast_accuracy=0.0)
    assert caplog.text.count("is stuck") == 1


def test_a_warm_up_from_zero_proves_nothing(caplog):
    report = Reports(4096, steps=10)
    for line in range(50):  # 500 steps, in which the rate rises to a hundredth of its peak
        report(PEAK * line / 5000, loss=3.0, contrast_accuracy=0.0)
    assert caplog.text == ""
    for _ in range(25):
        report(loss=3.0, contrast_accuracy=0.0)
    assert "is stuck" in caplog.text


def test_a_method_without_negatives_is_judged_by_its_spread_alone(caplog):
    report = Reports()
    for _ in range(20):
        report(loss=0.0, feature_std=0.8)
    assert caplog.text == ""


def output(loss: float, accuracy: float | None = 0.5, spread: float = 1.0) -> PretrainingOutput:
    return PretrainingOutput(
        loss=torch.tensor(loss),
        contrast_accuracy=None if accuracy is None else torch.tensor(accuracy),
        feature_std=torch.tensor(spread),
    )


def test_collect_gives_means_and_starts_anew(monkeypatch):
    clock = iter([100.0, 104.0, 110.0])
    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: next(clock))
    monitor = TrainingMonitor()
    for step, (accuracy, spread) in enumerate([(0.2, 0.9), (0.4, 0.5), (0.9, 0.1)]):
        monitor.update(output(1.0, accuracy, spread), num_images=7, step=step)
    report = monitor.collect(num_processes=2)
    assert report["contrast_accuracy"] == pytest.approx(0.5)
    assert report["feature_std"] == pytest.approx(0.5)
    # 3 micro-batches of 7 images on each of 2 processes in 4 seconds; then 9 images on one in 6.
    assert report["images_per_second"] == 10.5
    monitor.update(output(1.0, 0.1, 0.3), num_images=9, step=3)
    report = monitor.collect()
    assert report["feature_std"] == pytest.approx(0.3)
    assert report["images_per_second"] == 1.5


def test_byol_has_no_contrast_accuracy():
    monitor = TrainingMonitor()
    monitor.update(output(1.0, None), num_images=2, step=0)
    assert "contrast_accuracy" not in monitor.collect()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_the_first_bad_step_is_remembered(bad):
    monitor = TrainingMonitor()
    assert monitor.first_bad_step() is None
    for step, loss in enumerate([1.0, 2.0, bad, 1.0, bad]):
        monitor.update(output(loss), num_images=1, step=step)
    assert monitor.first_bad_step() == 2


def test_nothing_waits_for_the_device_between_logging_steps(monkeypatch):
    monitor = TrainingMonitor()
    calls = []
    for name in ("item", "cpu", "tolist", "__bool__", "__float__", "__int__"):
        original = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor, name, lambda self, *a, _o=original, _n=name, **k: calls.append(_n) or _o(self)
        )
    for step in range(3):
        monitor.update(output(1.0), num_images=1, step=step)
    assert calls == []


def test_gradient_norm_equals_torchs_clipping_norm():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 2))
    network(torch.randn(4, 5)).square().sum().backward()
    parameters = list(network.parameters())
    expected = nn.utils.get_total_norm([p.grad for p in parameters])
    torch.testing.assert_close(compute_gradient_norm(parameters), expected)
    assert float(compute_gradient_norm([nn.Parameter(torch.zeros(2))])) == 0.0


def test_a_resumed_run_goes_on_in_its_folder_of_tensorboard(tmp_path, monkeypatch):
    opened = []

    class Writer:
        def __init__(self, **values):
            opened.append(values)

        def add_text(self, *words):
            pass

    args = SimpleNamespace(output_dir=str(tmp_path), to_json_string=lambda: "{}")
    for step in (0, 4):
        callback = ContinuedTensorBoardCallback()
        callback._SummaryWriter = Writer
        callback.on_train_begin(
            args, state(global_step=step, is_world_process_zero=True, is_hyper_param_search=False), None
        )
        Path(opened[-1]["log_dir"]).mkdir(parents=True, exist_ok=True)
    assert opened[1] == {"log_dir": opened[0]["log_dir"], "purge_step": 5}
    assert len(list((tmp_path / "runs").iterdir())) == 1


def test_something_is_done_when_training_begins_and_only_where_files_are_written():
    done = []
    callback = TrainBeginCallback(lambda: done.append("written"))
    callback.on_train_begin(None, state(is_world_process_zero=False), None)
    callback.on_train_begin(None, state(is_world_process_zero=True), None)
    assert done == ["written"]
