import pytest
import torch
from torch import nn

from trainers import training_monitor
from trainers.pretraining_model import PretrainingOutput
from trainers.training_monitor import TrainingMonitor, gradient_norm


def output(loss: float, accuracy: float | None = 0.5, spread: float = 1.0) -> PretrainingOutput:
    return PretrainingOutput(
        loss=torch.tensor(loss),
        contrast_accuracy=None if accuracy is None else torch.tensor(accuracy),
        feature_std=torch.tensor(spread),
    )


def test_collect_gives_means_and_starts_anew(monkeypatch):
    clock = iter([100.0, 104.0, 110.0])
    monkeypatch.setattr(training_monitor.time, "perf_counter", lambda: next(clock))
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
    torch.testing.assert_close(gradient_norm(parameters), expected)
    assert float(gradient_norm([nn.Parameter(torch.zeros(2))])) == 0.0
