from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from synco_hub.data import EvaluationDataset, EvaluationTransform, load_dataset
from synco_hub.evaluation.detection import classifier_outputs
from synco_hub.evaluation.detection.classifier_outputs import FEATURES, LOGITS, ClassifierOutputs
from synco_hub.features import ExtractionSettings
from synco_hub.models import SynCoConfig, SynCoForImageClassification

QUIET = ExtractionSettings(batch_size=4, progress=False)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return SynCoForImageClassification(SynCoConfig(backbone="vit-nano", depth=1, num_labels=3)).eval()


def write(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    """Eighteen images: three blocks of two batches, the last of two images."""
    monkeypatch.setattr(classifier_outputs, "BLOCK", 7)
    for index in range(18):
        write(tmp_path / "data" / "test" / "c" / f"{index:02d}.bmp", index)
    return EvaluationDataset(load_dataset(tmp_path / "data", "test"), EvaluationTransform(32))


class Counted(torch.nn.Module):
    """Counts images, and is killed at one of them."""

    def __init__(self, network, last=10**9):
        super().__init__()
        self.network, self.images, self.last = network, 0, last

    def forward(self, pixel_values):
        self.images += len(pixel_values)
        if self.images > self.last:
            raise KeyboardInterrupt
        return self.network(pixel_values)


def test_outputs_are_those_of_single_images(network, dataset):
    found = ClassifierOutputs(network, QUIET).of(dataset, "known", (LOGITS, FEATURES))
    with torch.inference_mode():
        pixels = [dataset[index]["pixel_values"][None] for index in range(18)]
        logits = torch.cat([network(each).logits for each in pixels])
        features = torch.cat([network.base_model(each).pooler_output for each in pixels])
    assert torch.allclose(found.logits, logits, atol=1e-5)
    assert torch.allclose(found.features, features, atol=1e-5)
    only = ClassifierOutputs(network, QUIET).of(dataset, "bank", (FEATURES,))
    assert torch.equal(only.features, found.features)
    assert only.logits.numel() == 0


def test_a_killed_run_goes_on_after_the_last_block(network, dataset, tmp_path):
    whole = ClassifierOutputs(network, QUIET).of(dataset, "known")
    killed = Counted(network, last=12)
    with pytest.raises(KeyboardInterrupt):
        ClassifierOutputs(killed, QUIET, tmp_path / "kept").of(dataset, "known")
    rest = Counted(network)
    again = ClassifierOutputs(rest, QUIET, tmp_path / "kept").of(dataset, "known")
    assert rest.images == 10  # one block of eight was finished
    assert torch.equal(again.logits, whole.logits)
    write(tmp_path / "data" / "test" / "c" / "17.bmp", 99)
    changed = Counted(network)
    other = ClassifierOutputs(changed, QUIET, tmp_path / "kept").of(dataset, "known")
    assert changed.images == 2
    assert torch.equal(other.logits[:17], whole.logits[:17])
    assert not torch.equal(other.logits[17], whole.logits[17])


def test_what_is_wanted_too_is_computed_and_what_is_there_is_taken(network, dataset, tmp_path):
    outputs = ClassifierOutputs(network, QUIET, tmp_path / "kept")
    first = outputs.of(dataset, "known")
    both = outputs.of(dataset, "known", (LOGITS, FEATURES))
    assert len(both.features) == 18
    network.forward = None  # everything is on disk now
    assert torch.equal(outputs.of(dataset, "known").logits, first.logits)


def test_unreadable_images_are_left_out_also_when_resumed(network, dataset, tmp_path):
    for index in (3, 16, 17):
        (tmp_path / "data" / "test" / "c" / f"{index:02d}.bmp").write_bytes(b"broken")
    outputs = ClassifierOutputs(network, replace(QUIET, max_bad_fraction=0.5), tmp_path / "kept")
    found = [outputs.of(dataset, "known") for _ in range(2)]
    assert found[0].skipped == found[1].skipped == ("c/03.bmp", "c/16.bmp", "c/17.bmp")
    assert torch.equal(found[0].logits, found[1].logits)
    assert len(found[0].logits) == 15
    with pytest.raises(ValueError, match="1 of 18 images cannot be read"):
        ClassifierOutputs(network, QUIET, tmp_path / "kept").of(dataset, "known")
    for index in range(18):
        (tmp_path / "data" / "test" / "c" / f"{index:02d}.bmp").write_bytes(b"broken")
    with pytest.raises(ValueError, match="known: no image could be read"):
        ClassifierOutputs(network, replace(QUIET, max_bad_fraction=1.0)).of(dataset, "known")
