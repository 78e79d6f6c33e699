"""Logistic regression: against its gradient, another solver, closed forms and slow loops."""

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

import synco_hub
from synco_hub.evaluation.logistic import (
    STRENGTHS,
    draw_reliability,
    evaluate_logistic_features,
    fit,
    fit_by_torch,
    format_table,
)
from synco_hub.evaluation.measurement import MeasuredSplit
from synco_hub.features import Features
from synco_hub.models import SynCoConfig, SynCoModel, image_processor
from synco_hub.results import DataSource, ModelSource
from synco_hub.settings import LogisticSettings


def clusters(count, classes, dim, seed, spread=1.0, centres_seed=0):
    centres = np.random.default_rng(centres_seed).normal(size=(classes, dim))
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, count)
    return 3 + 5 * (centres[labels] + spread * generator.normal(size=(count, dim))), labels


@pytest.mark.parametrize("classes", [2, 5])
def test_the_weights_minimise_the_loss_that_is_stated(classes):
    values, labels = clusters(200, classes, 6, seed=1)
    for strength, fitted in zip((0.1, 10.0), fit(values, labels, [0.1, 10.0]), strict=True):
        standardised = torch.from_numpy((values - values.mean(0)) / math.sqrt(values.var(0).mean()))
        targets = torch.from_numpy(labels)

        def loss(flat, strength=strength, standardised=standardised, targets=targets):
            parameters = torch.from_numpy(flat).requires_grad_()
            weight, bias = parameters[: classes * 6].view(classes, 6), parameters[classes * 6 :]
            likelihood = torch.nn.functional.cross_entropy(standardised @ weight.T + bias, targets)
            # Two classes are one row of differences, which is penalised as one.
            square = weight.square().sum() if classes > 2 else (weight[1] - weight[0]).square().sum()
            value = likelihood + square / (2 * strength)
            value.backward()
            return value.item(), parameters.grad.numpy()

        best = minimize(
            loss, np.zeros(classes * 7), jac=True, method="L-BFGS-B", options={"ftol": 1e-14, "gtol": 1e-9}
        )
        ours = loss(np.concatenate([fitted.weight.ravel(), fitted.bias]))[0]
        assert ours == pytest.approx(best.fun, abs=2e-6)


def split(values, labels, classes, name):
    features = Features(
        torch.from_numpy(values).float(), torch.from_numpy(labels), torch.arange(len(labels)), torch.zeros(0).long()
    )
    names = tuple(f"class {k}" for k in range(classes))
    return MeasuredSplit(features, DataSource("clusters", name, len(labels), num_classes=classes), names, (), {})


def measured(train, test, classes, **settings):
    sides = split(*train, classes, "train"), split(*test, classes, "test")
    quiet = LogisticSettings(progress=False, **settings)
    return evaluate_logistic_features(*sides, ModelSource("m", "f", "none", 1), quiet)


def test_the_strength_is_chosen_on_training_images_and_numbers_are_those_of_slow_loops():
    # In many dimensions with few images weak penalties overfit: the path has its best inside.
    train, test = clusters(150, 6, 60, seed=2, spread=2.0), clusters(400, 6, 60, seed=3, spread=2.0)
    result, reliability = measured(train, test, 6)
    held_out = result.protocol.parameters["held_out_top1"]
    chosen = result.protocol.parameters["strength"]
    assert held_out[f"{chosen:g}"] == max(held_out.values())
    assert set(held_out) == {f"{strength:g}" for strength in STRENGTHS}
    changed, _ = measured(train, (test[0][::-1].copy(), test[1]), 6)
    assert changed.protocol.parameters == result.protocol.parameters
    fitted, *_ = fit(*train, [chosen])
    # The sides are kept as float32.
    logits = (test[0] - fitted.mean) / fitted.scale @ fitted.weight.T + fitted.bias
    chances = np.exp(logits - logits.max(1, keepdims=True))
    chances /= chances.sum(1, keepdims=True)
    right = chances.argmax(1) == test[1]
    assert result.metrics["top1"] == pytest.approx(100 * right.mean(), abs=0.3)
    assert result.standard_errors["top1"] == pytest.approx(100 * right.std() / math.sqrt(400), rel=0.05)
    likelihood = -np.mean([math.log(row[label]) for row, label in zip(chances, test[1], strict=True)])
    assert result.metrics["negative_log_likelihood"] == pytest.approx(likelihood, rel=1e-4)
    error = 0.0
    for low in np.arange(15) / 15:
        inside = (chances.max(1) > low) & (chances.max(1) <= low + 1 / 15)
        if inside.any():
            error += inside.mean() * abs(chances.max(1)[inside].mean() - right[inside].mean())
    assert result.metrics["expected_calibration_error"] == pytest.approx(100 * error, abs=0.5)
    figure = draw_reliability(reliability, result)
    assert "expected calibration error" in figure.axes[0].get_title()
    assert f"top1 {'':23} {result.metrics['top1']:7.2f} %" in format_table(result)
    assert "nats" in format_table(result)


def test_few_shot_means_and_interval_over_draws():
    train, test = clusters(300, 4, 8, seed=4), clusters(300, 4, 8, seed=5)
    result, _ = measured(train, test, 4, shots=[2, 20], draws=3)
    few, many = (result.metrics[f"top1_shots{shots}"] for shots in (2, 20))
    assert 25 < few < many <= result.metrics["top1"] + 3
    strength = result.protocol.parameters["strength"]
    found = []
    for draw in range(3):
        generator = np.random.default_rng((0, 2, draw))
        places = np.concatenate([generator.choice(np.flatnonzero(train[1] == k), 2, replace=False) for k in range(4)])
        values, asked = (np.float32(each).astype(np.float64) for each in (train[0], test[0]))
        fitted, *_ = fit(values[places], train[1][places], [strength])
        found.append(100 * np.mean(fitted.log_probabilities(asked, 4).argmax(1).numpy() == test[1]))
    assert few == pytest.approx(np.mean(found))
    half = scipy.stats.t.ppf(0.975, 2) * np.std(found, ddof=1) / math.sqrt(3)
    assert result.metrics["top1_shots2_interval95"] == pytest.approx(half)


def test_classes_that_training_images_lack_are_always_wrong_and_have_no_likelihood():
    train, test = clusters(100, 3, 5, seed=6), clusters(100, 3, 5, seed=7)
    few = train[1] < 2
    result, _ = measured((train[0][few], train[1][few]), test, 3)
    assert result.metrics["top1"] <= 100 * np.mean(test[1] < 2)
    assert "negative_log_likelihood" not in result.metrics
    assert any("no likelihood" in note for note in result.notes)


def test_the_command_measures_a_checkpoint_as_scikit_learn_on_its_features(tmp_path):
    torch.manual_seed(0)
    SynCoModel(SynCoConfig("vit-nano")).save_pretrained(tmp_path / "model")
    image_processor(32).save_pretrained(tmp_path / "model")
    data = "fractals:num_classes=3,train_images_per_class=12,test_images_per_class=6,image_size=32"
    settings = {"num_workers": 0, "progress": False}
    figure = tmp_path / "reliability.png"
    result = synco_hub.evaluate(
        "logistic", tmp_path / "model", data, tmp_path / "l.json", figure=figure, shots=[2], **settings
    )
    assert figure.stat().st_size > 3000
    table = synco_hub.Embeddings.read(synco_hub.embed(tmp_path / "model", data, tmp_path / "e.parquet", **settings))
    sides = {split: np.array([each == split for each in table.splits]) for split in ("train", "test")}
    bank = table.vectors[sides["train"]].astype(np.float64)
    scaled = (table.vectors - bank.mean(0)) / np.sqrt(bank.var(0).mean())
    strength = result.protocol.parameters["strength"]
    model = LogisticRegression(C=strength / len(bank), tol=1e-8, max_iter=10_000)
    model.fit(scaled[sides["train"]], table.labels[sides["train"]])
    accuracy = model.score(scaled[sides["test"]], table.labels[sides["test"]])
    assert result.metrics["top1"] == pytest.approx(100 * accuracy, abs=6)  # an image of 18 may lie on the border
    for shots, words in ((99, "--shots 99: 3 of the classes have fewer training images"), (0, "--shots 0: below 1")):
        with pytest.raises(ValueError, match=words):
            synco_hub.evaluate("logistic", tmp_path / "model", data, shots=[shots], **settings)
    with pytest.raises(ValueError, match="an inverse penalty is above 0"):
        synco_hub.evaluate("logistic", tmp_path / "model", data, strength=[-1.0], **settings)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("classes", [2, 5])
def test_torch_fits_to_the_loss_that_scikit_learn_reaches(classes, device):
    values, labels = clusters(300, classes, 6, seed=1)
    mean, scale = values.mean(0), math.sqrt(values.var(0).mean())
    standardised = (values - mean) / scale
    strengths = [0.01, 1.0, 100.0]

    def loss(weight, bias, strength):
        logits = standardised @ weight.T + bias
        if classes == 2:
            logits = np.concatenate([-logits / 2, logits / 2], axis=1)
        likelihood = scipy.special.logsumexp(logits, axis=1) - logits[np.arange(300), labels]
        return likelihood.mean() + (weight**2).sum() / (2 * strength)

    found = list(fit_by_torch(standardised, labels, strengths, device))
    for strength, (weight, bias, settled), theirs in zip(
        strengths, found, fit(values, labels, strengths), strict=True
    ):
        assert settled
        model = LogisticRegression(C=strength / 300, tol=1e-9, max_iter=10_000).fit(standardised, labels)
        assert loss(weight, bias, strength) == pytest.approx(loss(model.coef_, model.intercept_, strength), abs=1e-6)
        chances = theirs.log_probabilities(values, classes).exp().numpy()
        assert np.abs(chances - model.predict_proba(standardised)).max() < 2e-3


def test_torch_adds_up_blocks_and_starts_from_the_weights_before(monkeypatch):
    values, labels = clusters(100, 3, 4, seed=2)
    whole = [each[0] for each in fit_by_torch(values, labels, [0.1, 1.0], "cpu")]
    monkeypatch.setattr("synco_hub.evaluation.logistic._LOGITS_TOGETHER", 3 * 7)
    parts = [each[0] for each in fit_by_torch(values, labels, [0.1, 1.0], "cpu")]
    for one, other in zip(whole, parts, strict=True):
        assert np.abs(one - other).max() < 1e-8
    first, second = fit_by_torch(values, labels, [0.1, 0.1], "cpu")
    assert np.array_equal(first[0], second[0])  # it is there already


def test_a_cuda_device_takes_torch_and_says_so(monkeypatch):
    train, test = clusters(60, 3, 4, seed=6), clusters(60, 3, 4, seed=7)
    slow, _ = measured(train, test, 3, strength=[1.0])
    assert slow.protocol.parameters["solver"] == "L-BFGS of scikit-learn, tolerance 1e-05"
    monkeypatch.setattr("synco_hub.evaluation.logistic._is_cuda", lambda device: True)
    fast, _ = measured(train, test, 3, strength=[1.0])
    assert fast.protocol.parameters["solver"] == "L-BFGS of torch, tolerance 1e-05"
    assert fast.metrics == pytest.approx(slow.metrics, rel=1e-3)


def test_a_loss_that_has_not_settled_is_told(monkeypatch):
    train, test = clusters(60, 3, 4, seed=6), clusters(60, 3, 4, seed=7)
    monkeypatch.setattr("synco_hub.evaluation.logistic.MOST_STEPS", 2)
    for is_cuda in (False, True):
        monkeypatch.setattr("synco_hub.evaluation.logistic._is_cuda", lambda device, answer=is_cuda: answer)
        if is_cuda:
            monkeypatch.setattr(
                "synco_hub.evaluation.logistic.fit_by_torch",
                lambda values, labels, strengths, device: fit_by_torch(values, labels, strengths, "cpu"),
            )
        result, _ = measured(train, test, 3, strength=[1000.0])
        assert "the loss had not settled after 2 steps" in result.notes


def test_a_strength_that_is_given_is_not_said_to_be_chosen():
    train, test = clusters(60, 3, 4, seed=6), clusters(60, 3, 4, seed=7)
    result, _ = measured(train, test, 3, strength=[2.0])
    assert result.notes == ("strength 2 was given",)
    assert (result.protocol.parameters["held_out_top1"], result.protocol.parameters["strength"]) == ({}, 2.0)
    result, _ = measured(train, test, 3, shots=[2])
    assert "few-shot classifiers have the strength that was chosen with all training images" in result.notes


def test_training_images_of_which_nothing_is_learned():
    values, _ = clusters(6, 3, 4, seed=6)
    test = (values, np.array([0, 1, 2, 0, 1, 2]))
    with pytest.raises(ValueError, match="clusters: its training images are of one class"):
        measured((values, np.zeros(6, dtype=int)), test, 3)
    alone = (values[:3], np.array([0, 1, 2]))
    with pytest.raises(ValueError, match=r"no class has two training images.*give one --strength"):
        measured(alone, test, 3)
    assert "top1_shots1" in measured(alone, test, 3, strength=[1.0], shots=[1])[0].metrics
    with pytest.raises(ValueError, match=r"--shots 3: 2 of the classes have fewer training images \(first: class 1\)"):
        measured((values, np.array([0, 0, 0, 0, 1, 2])), test, 3, shots=[3])
