import pytest
import torch

from synco_hub import metrics
from synco_hub.metrics.modules import METRIC_MODULES, metric_module_path

evaluate = pytest.importorskip("evaluate")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", str(tmp_path))
    monkeypatch.setattr("evaluate.config.HF_MODULES_CACHE", str(tmp_path))


def load(name, tmp_path):
    return evaluate.load(metric_module_path(name), cache_dir=str(tmp_path))


def test_modules_give_the_numbers_of_the_functions(tmp_path):
    generator = torch.Generator().manual_seed(0)
    scores, labels = torch.randn(20, 6, generator=generator), torch.randint(6, (20,), generator=generator)
    ranked = {"predictions": scores.tolist(), "references": labels.tolist()}
    assert load("top_k_accuracy", tmp_path).compute(**ranked, k=2) == {
        "top2_accuracy": metrics.top_k_accuracy(scores, labels, 2)
    }
    assert load("mean_per_class_accuracy", tmp_path).compute(**ranked) == {
        "mean_per_class_accuracy": metrics.mean_per_class_accuracy(scores, labels)
    }
    multi_hot = torch.randint(-1, 2, (20, 6), generator=generator)
    found = load("voc_map_11_point", tmp_path).compute(predictions=scores.tolist(), references=multi_hot.tolist())
    assert found["map_11_point"] == metrics.voc_average_precision_11_point(scores, multi_hot)
    binary = labels % 2
    found = load("out_of_distribution", tmp_path).compute(
        predictions=scores[:, 0].tolist(), references=binary.tolist()
    )
    assert found["fpr95"] == metrics.fpr_at_recall(scores[:, 0], binary)
    assert found["auroc"] == metrics.area_under_roc(scores[:, 0], binary)
    similarities = scores.sort(dim=1, descending=True).values
    neighbours = torch.randint(6, (20, 6), generator=generator)
    found = load("weighted_knn_accuracy", tmp_path).compute(
        predictions=similarities.tolist(),
        neighbour_labels=neighbours.tolist(),
        references=labels.tolist(),
        num_classes=6,
        k=4,
    )
    votes = metrics.weighted_knn_vote(similarities, neighbours, 6, 4)
    assert found["weighted_knn_accuracy"] == metrics.top_k_accuracy(votes, labels)
    found = load("corruption_error", tmp_path).compute(
        predictions=scores.tolist(), references=labels[:4].repeat(5).tolist(), corruption="fog"
    )
    assert found["corruption_error"] == metrics.corruption_error(scores.unflatten(0, (5, 4)), labels[:4], "fog")


def test_modules_combine(tmp_path):
    both = evaluate.combine([load("top_k_accuracy", tmp_path), load("mean_per_class_accuracy", tmp_path)])
    answer = both.compute(predictions=[[1.0, 0.0], [1.0, 0.0]], references=[0, 1])
    assert answer == {"top1_accuracy": 0.5, "mean_per_class_accuracy": 0.5}


def test_every_module_is_there_and_others_are_refused():
    for name in METRIC_MODULES:
        assert (metric_module_path(name) + f"/{name}.py").endswith(f"{name}/{name}.py")
    with pytest.raises(ValueError, match="metric module 'f1' is unknown"):
        metric_module_path("f1")
