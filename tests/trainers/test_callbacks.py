from types import SimpleNamespace

import pytest

from synco_hub.data import EpochSampler
from trainers.callbacks import EpochCallback, GradientNormCallback, ImageProgressCallback, TargetUpdateCallback


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
        callback.on_pre_optimizer_step(SimpleNamespace(logging_first_step=False), state(global_step=step), None)
    assert taken == [3, 6, 9]


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
