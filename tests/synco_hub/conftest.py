"""Images of one colour that say their class, and a classifier that reads it: every accuracy is known beforehand."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.modeling_outputs import ImageClassifierOutput

from synco_hub.data import corruptions
from synco_hub.data.class_lists import read_class_list
from synco_hub.models import image_processor

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ColourReader(torch.nn.Module):
    """First guess from red and green, second guess that many classes later as blue says, the others below."""

    def __init__(self, num_classes=1000):
        super().__init__()
        self.num_classes = num_classes
        self.scale = torch.nn.Parameter(torch.tensor(1.0))

    def forward(self, pixel_values):
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
        red, green, blue = ((pixel_values * std + mean).mean(dim=(2, 3)) * 255).unbind(1)
        first = (red / 10).round().long() * 40 + (green / 6).round().long()
        second = first + (blue / 10).round().long()
        logits = torch.zeros(len(first), self.num_classes)
        rows = torch.arange(len(first))
        logits[rows, second.clamp(0, self.num_classes - 1)] = 5.0
        logits[rows, first.clamp(0, self.num_classes - 1)] = 9.0
        return ImageClassifierOutput(logits=logits * self.scale)


def write_coded(path, guess, offset=0, size=32):
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = (guess // 40 * 10, guess % 40 * 6, offset * 10)
    Image.fromarray(np.full((size, size, 3), colour, dtype=np.uint8)).save(path)


@pytest.fixture
def planted():
    """The classifier, its class names, its processor, and the writer of images."""
    names = read_class_list("imagenet_1k")
    return SimpleNamespace(
        classifier=ColourReader().eval(), names=names, processor=image_processor(32), write=write_coded
    )


@pytest.fixture(autouse=True)
def no_watermark_of_another_test():
    """The real one is kept for the life of a process; a stand-in must not outlive its test."""
    yield
    corruptions._watermark.cache_clear()
