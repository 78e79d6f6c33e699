"""What `trainers.classification.trainer` does for the probe and for fine-tuning alike."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from synco_hub.data import TooManyBadImagesError
from synco_hub.evaluation.classification import ClassificationTargets
from synco_hub.feature_pooling import FeatureRule
from synco_hub.models import SynCoConfig, SynCoForImageClassification
from trainers.classification.arguments import FineTuningArguments, LinearProbeArguments
from trainers.classification.data import FeatureDataset
from trainers.classification.heads import LinearHeads
from trainers.classification.trainer import FineTuningTrainer, LinearProbeTrainer


class WithBadRows(FeatureDataset):
    """Rows of which some could not be read: nonsense that must not count."""

    bad = (2, 5)

    def __getitem__(self, key):
        item = super().__getitem__(key)
        if item["index"] in self.bad:
            item["features"] = torch.full_like(item["features"], 1e3)
            item["bad_index"] = item["index"]
        return item


def run(tmp_path, train, test, rates=(8.0,), **arguments):
    args = LinearProbeArguments(
        output_dir=str(tmp_path),
        learning_rates=list(rates),
        num_train_epochs=3,
        per_device_train_batch_size=64,
        use_cpu=True,
        disable_tqdm=True,
        dataloader_num_workers=0,
        save_strategy="no",
        eval_strategy="no",
        logging_steps=1,
        **arguments,
    )
    torch.manual_seed(0)
    heads = LinearHeads(4, 3, len(rates), 0.1)
    targets = ClassificationTargets(test.targets, ("a", "b", "c"))
    trainer = LinearProbeTrainer(heads, args, train, test, targets, None, FeatureRule("timm", "given"), rates)
    trainer.train()
    return trainer


def rows(count=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 4, generator=generator), torch.randint(3, (count,), generator=generator)


def test_unreadable_rows_count_neither_in_training_nor_in_the_metrics(tmp_path):
    values, targets = rows()
    good = [index for index in range(12) if index not in WithBadRows.bad]
    spoiled, clean = WithBadRows(values, targets), FeatureDataset(values[good], targets[good])
    with_bad = run(tmp_path, spoiled, spoiled, max_bad_fraction=0.2)
    without = run(tmp_path, clean, clean)
    assert torch.allclose(with_bad.model.head(0)[0], without.model.head(0)[0], atol=1e-6)
    assert with_bad.evaluate() == pytest.approx(without.evaluate())
    assert with_bad.train_ledger.indices == with_bad.eval_ledger.indices == [2, 5]
    with pytest.raises(TooManyBadImagesError, match="2 of 12 images cannot be read"):
        run(tmp_path, spoiled, clean, max_bad_fraction=0.1)


def test_the_logged_loss_is_the_mean_of_the_heads(tmp_path):
    data = FeatureDataset(*rows()), FeatureDataset(*rows(seed=1))
    one, other, both = (
        [entry["loss"] for entry in run(tmp_path, *data, rates=rates).state.log_history if "loss" in entry]
        for rates in ((8.0,), (2.0,), (8.0, 2.0))
    )
    assert len(both) == 3
    assert both == pytest.approx([(first + second) / 2 for first, second in zip(one, other, strict=True)], abs=1e-4)


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    values, targets = rows()
    values[3] = torch.nan
    with pytest.raises(FloatingPointError, match="The loss is nan near step 1"):
        run(tmp_path, FeatureDataset(values, targets), FeatureDataset(*rows(seed=1)))


RULE = FeatureRule("pooler_output", "given")
QUICK = {
    "use_cpu": True,
    "disable_tqdm": True,
    "dataloader_num_workers": 0,
    "save_strategy": "no",
    "eval_strategy": "no",
}


def easy_features(count, seed):
    generator = torch.Generator().manual_seed(seed)
    centres = 1.5 * torch.randn(4, 12, generator=torch.Generator().manual_seed(99))
    labels = torch.randint(4, (count,), generator=generator)
    return centres[labels] + torch.randn(count, 12, generator=generator), labels


def trained(tmp_path, train, test, rates=(1.0, 4.0), **arguments):
    names = ("a", "b", "c", "d")
    args = LinearProbeArguments(output_dir=str(tmp_path), learning_rates=list(rates), **QUICK, **arguments)
    torch.manual_seed(0)
    heads = LinearHeads(12, 4, len(rates), args.label_smoothing)
    targets = ClassificationTargets(test.targets, names)
    trainer = LinearProbeTrainer(heads, args, train, test, targets, None, RULE, rates)
    trainer.train()
    return trainer


def test_agrees_with_logistic_regression_within_half_a_point(tmp_path):
    (train, labels), (test, test_labels) = easy_features(400, 1), easy_features(4000, 2)
    trainer = trained(
        tmp_path,
        FeatureDataset(train, labels),
        FeatureDataset(test, test_labels),
        num_train_epochs=100,
        per_device_train_batch_size=512,
        per_device_eval_batch_size=4000,
        label_smoothing=0.0,
    )
    oracle = LogisticRegression(C=1e2, max_iter=2000).fit(train.numpy(), labels.numpy())
    expected = 100 * oracle.score(test.numpy(), test_labels.numpy())
    metrics = trainer.evaluate()
    assert 80 < expected < 99.9
    assert metrics["eval_top1_lr1"] == pytest.approx(expected, abs=0.5)


def test_each_head_follows_sgd_by_hand(tmp_path):
    """Momentum, warm-up, cosine, scaling and label smoothing, step by step in float64."""
    features, labels = easy_features(32, 3)
    data = FeatureDataset(features, labels)
    trainer = trained(tmp_path, data, data, num_train_epochs=4, per_device_train_batch_size=32, warmup_epochs=1)
    torch.manual_seed(0)
    start = LinearHeads(12, 4, 2)
    smooth = 0.9 * torch.nn.functional.one_hot(labels, 4).double() + 0.1 / 4
    for index, rate in enumerate((1.0, 4.0)):
        weight, bias = (part.double() for part in start.head(index))
        momenta = [torch.zeros_like(weight), torch.zeros_like(bias)]
        for step in range(4):
            factor = 0.0 if step < 1 else 0.5 * (1 + torch.cos(torch.tensor(torch.pi * (step - 1) / 3)).item())
            error = ((features.double() @ weight.T + bias).softmax(1) - smooth) / 32
            momenta = [0.9 * momenta[0] + error.T @ features.double(), 0.9 * momenta[1] + error.sum(0)]
            weight, bias = (
                weight - rate * 32 / 512 * factor * momenta[0],
                bias - rate * 32 / 512 * factor * momenta[1],
            )
        got_weight, got_bias = trainer.model.head(index)
        assert torch.allclose(got_weight.double(), weight, atol=1e-6)
        assert torch.allclose(got_bias.double(), bias, atol=1e-6)


def test_multi_label_cells_that_are_difficult_do_not_count(tmp_path):
    features, labels = easy_features(64, 4)
    multi_hot = torch.nn.functional.one_hot(labels, 4).float()
    difficult = torch.rand(64, 4, generator=torch.Generator().manual_seed(5)) < 0.3
    masked = torch.where(difficult & (multi_hot == 0), -1.0, multi_hot)
    spoiled = torch.where(difficult & (multi_hot == 0), 1.0, multi_hot)
    arguments = {"num_train_epochs": 20, "per_device_train_batch_size": 64}
    test = FeatureDataset(features, masked)
    right, wrong = (
        trained(tmp_path, FeatureDataset(features, targets), test, (8.0,), **arguments)
        for targets in (masked, spoiled)
    )
    clean = multi_hot[~difficult.any(dim=1)], features[~difficult.any(dim=1)]
    errors = [
        torch.nn.functional.binary_cross_entropy_with_logits(trainer.model(clean[1])["logits"][0], clean[0])
        for trainer in (right, wrong)
    ]
    assert errors[0] < 0.7 * errors[1]
    assert set(right.evaluate()) == {"eval_map_11_point_lr8", "eval_map_integral_lr8"}


def test_sgd_decays_matrices_only_and_the_loss_is_smoothed(tmp_path):
    torch.manual_seed(0)
    model = SynCoForImageClassification(SynCoConfig(backbone="vit-nano", depth=1, num_labels=3))
    model.freeze_fixed_parameters()
    targets = ClassificationTargets(torch.tensor([0, 1, 2, 1]), ("a", "b", "c"))
    data = FeatureDataset(torch.zeros(4, 1), targets.values)
    args = FineTuningArguments(
        output_dir=str(tmp_path), use_cpu=True, per_device_train_batch_size=256, base_learning_rate=1e-3
    )
    trainer = FineTuningTrainer(model, args, data, data, targets)
    optimizer = trainer.create_optimizer()
    assert isinstance(optimizer, torch.optim.SGD)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed = {names[id(p)]: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decayed["classifier.weight"] == 1e-4
    assert all(value == 0 for name, value in decayed.items() if name.endswith(("bias", "cls_token", "norm.weight")))
    assert "synco.backbone.pos_embed" not in decayed
    assert {(group["lr"], group["momentum"]) for group in optimizer.param_groups} == {(5e-4, 0.9)}

    model.eval()
    images = torch.randn(4, 3, 32, 32)
    batch = {"pixel_values": images, "target": targets.values, "bad_index": torch.tensor([-1, 1, -1, -1])}
    kept = [0, 2, 3]
    expected = F.cross_entropy(model(images).logits[kept], targets.values[kept], label_smoothing=0.1)
    assert torch.allclose(trainer.compute_loss(model, batch), expected)
