import math
from types import SimpleNamespace

import pytest
import torch

from trainers.collapse import PATIENCE, CollapseCallback, guessing_loss
from trainers.contrast.info_nce import info_nce

STATE = SimpleNamespace(global_step=7)


def report(callback: CollapseCallback, **logs: float) -> None:
    callback.on_log(None, STATE, None, logs=logs)


def test_collapse_is_reported_once(caplog):
    callback = CollapseCallback()
    for spread in (0.9, 0.04, 0.01):
        report(callback, feature_std=spread)
    assert caplog.text.count("collapsing") == 1
    assert "0.0400" in caplog.text


def test_the_guessing_loss_is_infonce_when_all_vectors_are_the_same():
    vector = torch.nn.functional.normalize(torch.ones(3, 4), dim=1)
    loss = info_nce(vector, vector, vector[:1].expand(50, 4), 0.2).loss
    assert guessing_loss(50, num_directions=1) == pytest.approx(float(loss), rel=1e-6)
    assert guessing_loss(4096) == pytest.approx(2 * math.log(4097))


@pytest.mark.parametrize("num_synthetic", [0.0, 768.0])
def test_a_loss_of_a_guess_is_reported_when_it_stays(caplog, num_synthetic):
    callback, guess = CollapseCallback(4096), guessing_loss(4096 + num_synthetic)
    values = {"contrast_accuracy": 0.2, "num_synthetic": num_synthetic}
    for _ in range(PATIENCE - 1):
        report(callback, loss=guess * 1.005, **values)
    report(callback, loss=guess * 0.9, **values)
    assert caplog.text == ""
    for _ in range(PATIENCE + 2):
        report(callback, loss=guess * 0.995, **values)
    assert caplog.text.count("ln(K + 1)") == 1


@pytest.mark.parametrize("num_synthetic", [0.0, 768.0])
@pytest.mark.parametrize(("guesses", "stuck"), [(0.0, True), (1.0, True), (2.0, True), (2.0002, False), (3.0, False)])
def test_contrast_accuracy_of_two_guesses_is_reported_when_it_stays(caplog, num_synthetic, guesses, stuck):
    callback = CollapseCallback(4096)
    values = {"contrast_accuracy": guesses / (4097 + num_synthetic), "num_synthetic": num_synthetic}
    for _ in range(PATIENCE - 1):
        report(callback, loss=3.0, **values)
    assert caplog.text == ""
    report(callback, loss=3.0, **values)
    assert ("contrast accuracy is stuck" in caplog.text) == stuck


def test_a_method_without_negatives_is_judged_by_its_spread_alone(caplog):
    callback = CollapseCallback(None)
    for _ in range(2 * PATIENCE):
        report(callback, loss=0.0, feature_std=0.8)
    assert caplog.text == ""
