import pytest
import torch
from torch import nn

from synco_hub.models import SynCoConfig
from trainers.fidelity import fidelity_settings
from trainers.pretraining_flags import parse
from trainers.pretraining_model import SynCoForPreTraining
from trainers.pretraining_trainer import SynCoTrainer
from trainers.schedules import learning_rate_factor, synthetic_epochs


def run(tmp_path, *flags: str):
    return parse([*flags, "--output-dir", str(tmp_path), "--use-cpu"])


def test_the_paper_sets_nothing():
    assert fidelity_settings("paper", "synco-v2", "deit-s") == {}


def test_the_authors_code_as_a_group(tmp_path):
    theirs = run(tmp_path, "--fidelity", "authors-code")
    assert list(theirs.settings.counts.values()) == [128, 128, 128, 64, 64, 64]
    assert sum(theirs.settings.counts.values()) == 576
    assert theirs.settings.noise_std == 0.1
    assert theirs.settings.num_hard_negatives == 256
    assert theirs.backbone.num_heads == [12]
    training = theirs.training
    window = synthetic_epochs(300, training.synthetic_warmup_epochs, training.synthetic_cooldown_epochs)
    assert (window[0], window[-1]) == (30, 100)
    assert (training.base_learning_rate, training.weight_decay, training.max_grad_norm) == (1e-3, 0.05, 5.0)
    assert training.warmup_steps_of(total_steps=3000, steps_per_epoch=10) == 50
    assert theirs.fidelity == "authors-code"


def test_byol_of_the_authors_code_wins_over_the_recipe_and_the_user_over_both(tmp_path):
    theirs = run(tmp_path, "--fidelity", "authors-code", "--recipe", "byol-swin-t", "--weight-decay", "0.2")
    assert theirs.training.gradient_accumulation_steps == 1
    assert theirs.training.base_learning_rate == 2e-4
    assert theirs.training.momentum_start == 0.996
    assert theirs.settings.online_drop_path_rate == 0.2
    assert theirs.training.weight_decay == 0.2
    assert theirs.backbone.num_heads is None


def test_the_paper_is_the_default(tmp_path):
    ours = run(tmp_path, "--method", "synco-v2")
    assert sum(ours.settings.counts.values()) == 768
    assert ours.training.max_grad_norm == 0.0
    assert ours.backbone.num_heads is None
    assert ours.fidelity == "paper"


def test_an_unknown_fidelity_names_the_nearest(tmp_path):
    with pytest.raises(ValueError, match="authors-code"):
        run(tmp_path, "--fidelity", "author-code")


def test_learning_rates_of_the_ends():
    start, end = 5e-7 / 1e-3, 5e-6 / 1e-3
    rates = [1e-3 * learning_rate_factor(step, 300, 5, start, end) for step in range(301)]
    assert rates[0] == pytest.approx(5e-7)
    assert rates[5] == pytest.approx(1e-3)
    assert rates[300] == pytest.approx(5e-6)
    assert max(rates) == rates[5]
    assert rates[1] == pytest.approx(5e-7 + (1e-3 - 5e-7) / 5)


@pytest.mark.parametrize("fidelity", ["paper", "authors-code"])
def test_weight_decay_of_tokens_and_tables(tmp_path, fidelity):
    args = run(tmp_path, "--fidelity", fidelity, "--per-device-train-batch-size", "2").training
    small = {"queue_size": 8, "num_hard_negatives": 2, "projection_hidden_dim": 8, "projection_dim": 4}
    model = SynCoForPreTraining(SynCoConfig(backbone="vit-nano", depth=1, pretraining=small))
    trainer = SynCoTrainer(model, args, [{}] * 4)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed = {
        names[id(parameter)]
        for group in trainer.create_optimizer().param_groups
        for parameter in group["params"]
        if group["weight_decay"] > 0
    }
    assert ("synco.backbone.cls_token" in decayed) == (fidelity == "authors-code")
    assert not any(isinstance(module, nn.LayerNorm) and f"{name}.weight" in decayed
                   for name, module in model.named_modules())  # fmt: skip
    assert torch.is_tensor(model.synco.backbone.cls_token)
