import pytest
import torch
from transformers.modeling_outputs import ImageClassifierOutput

from synco_hub.data import EvaluationDataset, EvaluationTransform, load_dataset
from synco_hub.evaluation.classification import evaluate_classification
from synco_hub.features import ExtractionSettings

QUIET = ExtractionSettings(batch_size=5, progress=False)


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
    result = evaluate_classification(classifier, tuple(images.class_names), dataset, "mine", QUIET)
    right = [
        int(classifier(item["pixel_values"][None]).logits.argmax()) == item["label"]
        for item in (dataset[index] for index in range(20))
    ]
    assert result.metrics["top1"] == result.metrics["mean_per_class"] == pytest.approx(100 * sum(right) / 20)
    assert result.metrics["top5"] == 100.0
    assert result.dataset.count == 20
    assert classifier.training
    with pytest.raises(ValueError, match="the head has 4 classes, the data set 5"):
        evaluate_classification(Projector(4), ("a", "b", "c", "d"), dataset, "mine", QUIET)
