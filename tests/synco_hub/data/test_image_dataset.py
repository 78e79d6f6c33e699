import json

import numpy as np
import pytest
from PIL import Image

from synco_hub.data.image_dataset import DatasetDescription, ImageDataset, Sample, fingerprint


class Plain(ImageDataset):
    def load_image(self, index: int) -> Image.Image:
        return Image.new("RGB", (2, 2), (index, 0, 0))

    def name(self, index: int) -> str:
        return f"{index}.png"


def plain(labels: list[int], class_names: list[str]) -> Plain:
    description = DatasetDescription("toy", "/toy", "train", len(labels), len(class_names), "all", "0" * 16)
    return Plain(labels, class_names, description)


def test_samples_labels_and_description() -> None:
    dataset = plain([0, 1, 1], ["a", "b"])
    sample = dataset[2]
    assert isinstance(sample, Sample)
    assert (sample.label, type(sample.label), sample.image.getpixel((0, 0))) == (1, int, (2, 0, 0))
    assert (len(dataset), dataset.num_classes, dataset.is_labeled) == (3, 2, True)
    assert dataset.labels.dtype == np.int64
    dataset.require_labels("k-NN evaluation")
    assert json.loads(json.dumps(dataset.description.to_dict()))["num_images"] == 3


@pytest.mark.parametrize(("labels", "names"), [([-1, -1], []), ([0, -1], ["a"])])
def test_what_needs_labels_says_so(labels: list[int], names: list[str]) -> None:
    dataset = plain(labels, names)
    assert not dataset.is_labeled
    with pytest.raises(ValueError, match=r"/toy \(train\): k-NN evaluation needs a class"):
        dataset.require_labels("k-NN evaluation")


@pytest.mark.parametrize(("labels", "names"), [([0, 2], ["a", "b"]), ([-2], ["a"]), ([0], [])])
def test_labels_without_a_name_are_refused(labels: list[int], names: list[str]) -> None:
    with pytest.raises(ValueError, match="labels"):
        plain(labels, names)


def test_the_fingerprint_sees_every_change() -> None:
    labels = np.array([0, 1])
    prints = [
        fingerprint(["a", "b"], ["x"], labels),
        fingerprint(["b", "a"], ["x"], labels),
        fingerprint(["ab"], ["x"], labels),
        fingerprint(["a"], ["b", "x"], labels),
        fingerprint(["a", "b"], ["x"], labels[::-1]),
        fingerprint(["a", "b"], "x", labels),
        fingerprint(["a", "b"], labels),
    ]
    assert len(set(prints)) >= 6
    assert prints[0] == fingerprint(["a", "b"], ["x"], labels.astype(">i4"))
    assert prints[0] == fingerprint(iter(["a", "b"]), ["x"], labels)
    assert len(prints[0]) == 16
    # Fixed for good: runs are resumed with newer versions of the package.
    assert fingerprint(["a", "b"], ["x"], labels) == "ac39a40c20f0973d"
