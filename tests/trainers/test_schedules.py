import itertools
import math

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR

from trainers.schedules import (
    learning_rate_factor,
    learning_rate_factor_of_authors,
    scaled_learning_rate,
    synthetic_epochs,
    synthetic_steps,
    target_momentum,
    token_dropout_factor,
)


@pytest.mark.parametrize(
    ("cooldown_epochs", "cooldown"), [(None, 9), (0, 0), (0.2, 1), (2, 10), (18, 90), (1000, 90), (1e300, 90)]
)
def test_token_dropout_falls_along_a_line_that_ends_with_the_run(cooldown_epochs, cooldown):
    total = 90
    factors = [token_dropout_factor(step, total, 5, cooldown_epochs) for step in range(total)]
    line = [step / cooldown for step in reversed(range(cooldown))]
    assert factors == pytest.approx([1.0] * (total - cooldown) + line)
    # Runs are made longer: a checkpoint may lie behind the end of its plan.
    assert token_dropout_factor(total, total, 5, cooldown_epochs) == (0.0 if cooldown else 1.0)


def test_token_dropout_of_the_shortest_runs():
    assert token_dropout_factor(0, 1, 1) == 1.0
    assert token_dropout_factor(0, 1, 1, 1) == 0.0


def test_target_momentum_equals_the_published_anchors():
    assert target_momentum(101, 300) == pytest.approx(0.992545, abs=5e-7)
    assert target_momentum(201, 300) == pytest.approx(0.997545, abs=5e-7)


def test_target_momentum_has_the_right_limits_and_never_falls():
    values = [target_momentum(step, 500, start=0.9) for step in range(501)]
    assert values[0] == pytest.approx(0.9)
    assert values[-1] == 1.0
    assert values[250] == pytest.approx(0.95)
    assert all(later >= earlier for earlier, later in itertools.pairwise(values))
    assert target_momentum(600, 500) == 1.0


@pytest.mark.parametrize(("total", "start"), [(0, 0.99), (-3, 0.99), (10, 1.2), (10, -0.1)])
def test_target_momentum_refuses_impossible_schedules(total, start):
    with pytest.raises(ValueError, match=r"total_steps|start"):
        target_momentum(0, total, start)


def test_synthetic_epochs_are_those_of_the_paper():
    assert synthetic_epochs(300) == range(30, 200)
    assert synthetic_epochs(300, warmup=30, cooldown=100) == range(30, 200)
    assert synthetic_epochs(100, warmup=0, cooldown=0) == range(100)
    assert len(synthetic_epochs(10, warmup=6, cooldown=6)) == 0


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_synthesis_runs_in_epochs_30_to_199_at_any_number_of_processes(processes):
    images, global_batch = 1_281_167, 512
    steps_per_epoch = (images // (global_batch // processes * processes)) or 1
    total_steps = 300 * steps_per_epoch
    window = synthetic_steps(total_steps, steps_per_epoch)
    active = {step // steps_per_epoch for step in (window[0], window[len(window) // 2], window[-1])}
    assert min(active) == 30
    assert max(active) == 199
    assert window[0] == 30 * steps_per_epoch
    assert window[-1] + 1 == 200 * steps_per_epoch


def test_synthetic_steps_in_epochs_and_their_errors():
    assert synthetic_steps(1000, 10, warmup_epochs=2.5, cooldown_epochs=0) == range(25, 1000)
    # A tenth and a third of 8 steps, both rounded to the nearest.
    assert synthetic_steps(8, 4) == range(1, 5)
    assert synthetic_steps(1000, 10, warmup_epochs=0.07, cooldown_epochs=0.07) == range(1, 999)
    with pytest.raises(ValueError, match="negative"):
        synthetic_steps(1000, 10, warmup_epochs=-1)


def test_a_last_epoch_ends_the_window_one_step_ahead_and_within_the_run():
    assert synthetic_steps(1000, 10, warmup_epochs=2, last_epoch=4) == range(19, 49)
    assert synthetic_steps(30, 10, warmup_epochs=2, last_epoch=4) == range(19, 30)
    assert synthetic_steps(1000, 10, warmup_epochs=0, last_epoch=0) == range(9)
    assert len(synthetic_steps(1000, 10, warmup_epochs=30, last_epoch=4)) == 0


def test_the_authors_cosine_falls_at_the_end_of_its_warm_up_and_lags_by_a_step():
    factors = [learning_rate_factor_of_authors(step, 12, 3, start=0.1, end=0.2) for step in range(20)]
    assert factors[:4] == pytest.approx([0.1, 0.1, 0.4, 0.7])
    assert factors[4] == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi * 3 / 12)) / 2)
    assert factors[7] == pytest.approx(0.6)
    assert factors[13:] == pytest.approx([0.2] * 7)
    assert learning_rate_factor_of_authors(0, 10, 0) == 1.0


def test_scaled_learning_rate_is_linear_in_the_batch():
    assert scaled_learning_rate(1.5e-4, 512) == pytest.approx(1.5e-4)
    assert scaled_learning_rate(1.5e-4, 4096) == pytest.approx(1.2e-3)
    assert scaled_learning_rate(1.5e-4, 64) == pytest.approx(1.5e-4 / 8)


def test_learning_rate_factor_is_a_linear_ramp_then_torchs_cosine():
    total, warmup = 90, 12
    assert [learning_rate_factor(step, total, warmup) for step in range(warmup)] == [s / warmup for s in range(warmup)]
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    reference = CosineAnnealingLR(optimizer, T_max=total - warmup)
    for step in range(warmup, total + 1):
        assert learning_rate_factor(step, total, warmup) == pytest.approx(reference.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        reference.step()
    assert learning_rate_factor(0, 10, 0) == 1.0
    assert math.isclose(learning_rate_factor(10, 10, 0), 0.0, abs_tol=1e-12)


def test_learning_rate_factor_begins_and_ends_where_it_is_told_and_stays_there():
    factors = [learning_rate_factor(step, 12, 4, start=0.2, end=0.1) for step in range(16)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factors[8] == pytest.approx((1.0 + 0.1) / 2)
    assert factors[12:] == pytest.approx([0.1] * 4)
