"""The module against the definition with the published errors of AlexNet."""

import numpy as np
import pytest

pytest.importorskip("evaluate")


@pytest.fixture
def metric(tmp_path):
    from synco_hub.metrics.modules.corruption_error.corruption_error import CorruptionError

    return CorruptionError(cache_dir=str(tmp_path))


# Hendrycks and Dietterich (2019): AlexNet's mean top-1 error over the five severities.
ALEXNET = {"fog": 0.819324, "jpeg_compression": 0.606500}


@pytest.mark.parametrize("corruption", ALEXNET)
def test_it_is_the_mean_error_over_that_of_alexnet(metric, corruption):
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 4, 12)
    scores = generator.normal(size=(5, 12, 4)).astype(np.float32)
    wrong = sum(int(scores[s, i].argmax() != labels[i]) for s in range(5) for i in range(12))
    found = metric.compute(
        predictions=scores.reshape(60, 4).tolist(), references=labels.tolist() * 5, corruption=corruption
    )
    assert found == {"corruption_error": pytest.approx(wrong / 60 / ALEXNET[corruption])}


def test_other_images_at_one_severity_are_refused(metric):
    scores = [[1.0, 0.0]] * 4
    with pytest.raises(ValueError, match="same images at every severity"):
        metric.compute(predictions=scores, references=[0, 1, 1, 0], corruption="fog", severities=2)
    with pytest.raises(ValueError, match="4 references are not 5 equal lists"):
        metric.compute(predictions=scores, references=[0, 1, 0, 1], corruption="fog")
