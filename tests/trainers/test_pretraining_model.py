import dataclasses
import math

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModel

from synco_hub.models import SynCoConfig, SynCoModel
from trainers.contrast.synthetic_draws import SyntheticNegativesConfig
from trainers.pretraining_arguments import PretrainingSettings
from trainers.pretraining_model import SynCoForPreTraining, refuse_incomplete_state, synthetic_negatives_of

SMALL = {"queue_size": 32, "num_hard_negatives": 8, "projection_hidden_dim": 24, "projection_dim": 16}


def small_model(backbone: str = "vit-nano", seed: int = 0, **settings: object) -> SynCoForPreTraining:
    torch.manual_seed(seed)
    return SynCoForPreTraining(SynCoConfig(backbone=backbone, pretraining={**SMALL, **settings}))


def views(batch: int = 6, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, 32, 32, generator=generator), torch.randn(batch, 3, 32, 32, generator=generator)


@pytest.mark.parametrize("method", ["synco-v2", "moby", "byol"])
@pytest.mark.parametrize(
    ("backbone", "total", "trainable", "percent"),
    [("deit-s", 50_708_992, 26_333_696, 51.93), ("swin-t", 65_562_100, 33_835_898, 51.61)],
)
def test_parameter_counts_are_those_of_table_15(backbone, total, trainable, percent, method):
    with torch.device("meta"):
        model = SynCoForPreTraining(SynCoConfig(backbone=backbone, pretraining={"method": method}))
    counted = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert (counted, trained) == (total, trainable)
    assert round(100 * trained / counted, 2) == percent


def test_trainable_share_is_the_same_after_save_and_load(tmp_path):
    model = SynCoForPreTraining(SynCoConfig(backbone="deit-s"))
    model.save_pretrained(tmp_path)
    loaded = SynCoForPreTraining.from_pretrained(tmp_path)
    trained = sum(p.numel() for p in loaded.parameters() if p.requires_grad)
    assert round(100 * trained / sum(p.numel() for p in loaded.parameters()), 2) == 51.93
    before, after = model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("backbone", ["vit-nano", "swin-nano"])
def test_any_checkpoint_loads_as_the_online_backbone(tmp_path, backbone):
    model = small_model(backbone)
    model.update_target_network(0.5)
    with torch.no_grad():
        for parameter in model.target.parameters():
            parameter.add_(1.0)
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is SynCoModel
    x = views()[0]
    model.eval(), loaded.eval()
    assert torch.equal(loaded(x).pooler_output, model.synco(x).pooler_output)
    assert loaded.config.drop_path_rate == 0.0


def test_the_target_starts_as_a_copy_and_never_learns_by_gradient():
    model = small_model()
    for online, target in zip(model.synco.parameters(), model.target.parameters(), strict=True):
        assert torch.equal(online, target)
        assert not target.requires_grad
    model.train()(*views()).loss.backward()
    assert all(p.grad is None for p in model.target.parameters())
    assert all(p.grad is None for p in model.target_projector.parameters())
    assert model.predictor[0].weight.grad.abs().sum() > 0
    assert model.synco.backbone.patch_embed.proj.weight.grad.abs().sum() > 0


def test_drop_path_is_asymmetric_and_absent_for_byol():
    def rates(branch: SynCoModel) -> list[float]:
        return [getattr(block.drop_path1, "drop_prob", 0.0) for block in branch.backbone.blocks]

    model = small_model()
    assert rates(model.synco) == pytest.approx([0.0, 0.1, 0.2])
    assert rates(model.target) == [0.0, 0.0, 0.0]
    assert rates(small_model(method="byol").synco) == [0.0, 0.0, 0.0]


def slow_info_nce(query: torch.Tensor, key: torch.Tensor, queue: torch.Tensor, temperature: float) -> float:
    """InfoNCE one query at a time, written from its definition."""
    total = 0.0
    for q, k in zip(query, key, strict=True):
        positive = math.exp(float(q @ k) / temperature)
        negatives = sum(math.exp(float(q @ n) / temperature) for n in queue)
        total += -math.log(positive / (positive + negatives))
    return total / len(query)


@pytest.mark.parametrize("method", ["moby", "byol"])
def test_the_loss_equals_both_directions_written_out(method):
    model = small_model(method=method, online_drop_path_rate=0.0).train()
    view_1, view_2 = views()
    projections = [model.projector(model.synco(v).pooler_output) for v in (view_1, view_2)]
    q1, q2 = (F.normalize(model.predictor(p), dim=1) for p in projections)
    k1, k2 = (F.normalize(model.target_projector(model.target(v).pooler_output), dim=1) for v in (view_1, view_2))
    if method == "byol":
        expected = float((2 - 2 * (q1 * k2).sum(1)).mean() + (2 - 2 * (q2 * k1).sum(1)).mean()) / 2
    else:
        expected = slow_info_nce(q1, k2, model.queue_2.keys, 0.2) + slow_info_nce(q2, k1, model.queue_1.keys, 0.2)
        before = model.queue_1.keys.clone()
    assert float(model(view_1, view_2).loss) == pytest.approx(expected, rel=1e-5)
    if method == "moby":
        torch.testing.assert_close(model.queue_1.keys[:6], k1)
        torch.testing.assert_close(model.queue_2.keys[:6], k2)
        assert torch.equal(model.queue_1.keys[6:], before[6:])


def test_synthesis_makes_the_task_harder_and_only_inside_the_window():
    view_1, view_2 = views(8)
    losses = {}
    for method, active in [("moby", True), ("synco-v2", False), ("synco-v2", True)]:
        model = small_model(method=method, online_drop_path_rate=0.0).train()
        losses[method, active] = float(model(view_1, view_2, synthetic_active=active).loss)
    assert losses["moby", True] == pytest.approx(losses["synco-v2", False])
    assert losses["synco-v2", True] > losses["synco-v2", False] + 1.0


def test_evaluation_mode_leaves_the_queues_alone():
    model = small_model().eval()
    model(*views())
    assert int(model.queue_1.position) == 0
    model.train()(*views())
    assert int(model.queue_1.position) == 6


def test_feature_std_is_one_on_the_sphere_and_zero_when_collapsed():
    model = small_model(method="byol").train()
    view_1, view_2 = views(8)
    with torch.no_grad():
        model.synco.backbone.norm.weight.zero_()
        model.synco.backbone.norm.bias.fill_(1.0)
    assert float(model(view_1, view_2).feature_std) == pytest.approx(0.0, abs=1e-6)
    from trainers.pretraining_model import _normalised_std

    spread = torch.randn(4000, 64, generator=torch.Generator().manual_seed(0))
    assert float(_normalised_std(spread)) == pytest.approx(1.0, abs=0.02)


def test_settings_reach_the_synthesis_and_survive_saving(tmp_path):
    settings = PretrainingSettings(num_mixup=5, num_hard_negatives=7, noise_std=0.3, extrapolation_max=1.25)
    config = synthetic_negatives_of(settings).config
    assert config.counts["mixup"] == 5
    assert (config.num_hard_negatives, config.noise_std) == (7, 0.3)
    assert config.extrapolation_range == (1.0, 1.25)
    assert synthetic_negatives_of(PretrainingSettings()).config == SyntheticNegativesConfig()
    model = small_model(num_mixup=3, temperature=0.1)
    model.save_pretrained(tmp_path)
    assert SynCoForPreTraining.from_pretrained(tmp_path).settings == model.settings
    assert SynCoConfig.from_pretrained(tmp_path).pretraining == dataclasses.asdict(model.settings)


def test_an_incomplete_checkpoint_is_refused(tmp_path):
    SynCoModel(SynCoConfig(backbone="vit-nano")).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="keys are missing"):
        SynCoForPreTraining.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="1 are superfluous"):
        refuse_incomplete_state([], ["queue_3.keys"])
    refuse_incomplete_state([], [])


def test_half_precision_autocast_computes_the_contrast_in_float32():
    model = small_model(online_drop_path_rate=0.0).train()
    view_1, view_2 = views()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(view_1, view_2, synthetic_active=True)
    assert output.loss.dtype == torch.float32
    output.loss.backward()
    assert torch.isfinite(model.predictor[0].weight.grad).all()
