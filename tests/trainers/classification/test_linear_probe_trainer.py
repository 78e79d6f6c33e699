import pytest
import torch
from sklearn.linear_model import LogisticRegression

from synco_hub.evaluation.classification import ClassificationTargets
from synco_hub.feature_pooling import FeatureRule
from trainers.classification.classification_arguments import LinearProbeArguments
from trainers.classification.feature_dataset import FeatureDataset
from trainers.classification.linear_heads import LinearHeads
from trainers.classification.linear_probe_trainer import LinearProbeTrainer

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
