import numpy as np
import pytest
import torch
from transformers.modeling_outputs import ImageClassifierOutput

from synco_hub import metrics
from synco_hub.data import DatasetDescription, EvaluationDataset, EvaluationTransform, ImageDataset, load_dataset
from synco_hub.evaluation.classification import (
    ClassificationScores,
    check_same_classes,
    classification_targets,
    evaluate_classification,
)
from synco_hub.evaluation.measurement import EvaluatedModel
from synco_hub.settings import ForwardSettings

QUIET = ForwardSettings(batch_size=5, num_workers=0, progress=False)


class Projector(torch.nn.Module):
    """A linear classifier on pixels."""

    def __init__(self, classes):
        super().__init__()
        self.layer = torch.nn.Linear(3 * 16 * 16, classes)

    def forward(self, pixel_values):
        return ImageClassifierOutput(logits=self.layer(pixel_values.flatten(1)))


def test_numbers_are_those_of_a_loop_over_images(tmp_path):
    name = "fractals:num_classes=5,train_images_per_class=1,test_images_per_class=4"
    images = load_dataset(name, "test", image_size=16, cache_dir=tmp_path)
    dataset = EvaluationDataset(images, EvaluationTransform(16))
    torch.manual_seed(0)
    classifier = Projector(5).train()
    result = evaluate_classification(
        EvaluatedModel(classifier, None, "mine", tuple(images.class_names)), dataset, QUIET
    )
    right = [
        int(classifier(item["pixel_values"][None]).logits.argmax()) == item["label"]
        for item in (dataset[index] for index in range(20))
    ]
    assert result.metrics["top1"] == result.metrics["mean_per_class"] == pytest.approx(100 * sum(right) / 20)
    assert result.metrics["top5"] == 100.0
    share = sum(right) / 20
    assert result.standard_errors["top1"] == pytest.approx(100 * (share * (1 - share) / 20) ** 0.5)
    assert result.dataset.count == 20
    assert classifier.training
    with pytest.raises(ValueError, match="the head has 4 classes, the data set 5"):
        evaluate_classification(EvaluatedModel(Projector(4), None, "mine", ("a", "b", "c", "d")), dataset, QUIET)


def images(labels, names=("a", "b")):
    about = DatasetDescription("d", "here", "train", len(labels), len(names), "given", "0")
    return ImageDataset(labels, names, about)


def test_one_class_or_several():
    single = classification_targets(images([1, 0]), "probing")
    assert (single.multi_label, single.primary_metric) == (False, "top1")
    assert single.values.tolist() == [1, 0]
    several = images([0, 1])
    several.multi_hot = np.array([[1, 1], [-1, 1]])
    targets = classification_targets(several, "probing")
    assert (targets.multi_label, targets.primary_metric) == (True, "map_11_point")
    assert torch.equal(targets.values, torch.tensor([[1.0, 1], [-1, 1]]))


def test_bad_splits():
    with pytest.raises(ValueError, match="the split 'train' of d is empty"):
        classification_targets(images([]), "probing")
    with pytest.raises(ValueError, match="probing needs a class for every image"):
        classification_targets(images([0, -1]), "probing")
    broken = images([0, 1])
    broken.multi_hot = np.zeros((1, 2))
    with pytest.raises(ValueError, match=r"shape \(1, 2\)"):
        classification_targets(broken, "probing")


def test_classes_of_head_and_data():
    check_same_classes(("a", "b"), ("a", "b"))
    check_same_classes(("LABEL_0", "LABEL_1"), ("a", "b"))
    with pytest.raises(ValueError, match="the head has 1 classes, the data set 2"):
        check_same_classes(("a",), ("a", "b"))
    with pytest.raises(ValueError, match="class 1 is 'c' in the head and 'b'"):
        check_same_classes(("a", "c"), ("a", "b"))


def test_batches_give_the_numbers_of_the_whole():
    generator = torch.Generator().manual_seed(0)
    scores, targets = torch.randn(50, 7, generator=generator), torch.randint(7, (50,), generator=generator)
    keeper = ClassificationScores(7, multi_label=False)
    for start in range(0, 50, 16):
        keeper.add(scores[start : start + 16], targets[start : start + 16])
    keeper.add(scores[:0], targets[:0])
    assert keeper.metrics() == pytest.approx(
        {
            "top1": 100 * metrics.top_k_accuracy(scores, targets),
            "top5": 100 * metrics.top_k_accuracy(scores, targets, 5),
            "mean_per_class": 100 * metrics.mean_per_class_accuracy(scores, targets),
        }
    )


def test_several_classes_an_image():
    generator = torch.Generator().manual_seed(1)
    scores, targets = torch.randn(50, 3, generator=generator), torch.randint(-1, 2, (50, 3), generator=generator)
    keeper = ClassificationScores(3, multi_label=True)
    keeper.add(scores[:20], targets[:20])
    keeper.add(scores[20:], targets[20:])
    assert keeper.metrics() == pytest.approx(
        {
            "map_11_point": 100 * metrics.voc_average_precision_11_point(scores, targets),
            "map_integral": 100 * metrics.average_precision(scores, targets),
        }
    )


def test_bad_input():
    with pytest.raises(ValueError, match="no image was classified"):
        ClassificationScores(3, False).metrics()
    with pytest.raises(ValueError, match="label 3"):
        ClassificationScores(3, False).add(torch.zeros(1, 3), torch.tensor([3]))
    with pytest.raises(ValueError, match="NaN"):
        ClassificationScores(3, False).add(torch.full((1, 3), torch.nan), torch.tensor([0]))
