from __future__ import annotations

import concurrent.futures
from dataclasses import dataclass, replace

import pytest
import torch

from synco_hub import feature_processes
from synco_hub.feature_processes import DatasetPart, devices_of, extract_features_in_processes, parts
from synco_hub.features import ExtractionSettings, extract_features
from synco_hub.models import SynCoConfig, SynCoModel


@dataclass
class Noise:
    """Images drawn from their index; some cannot be read."""

    count: int
    bad: tuple[int, ...] = ()

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if not 0 <= index < self.count:
            raise IndexError(index)
        pixels = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(index))
        return {"pixel_values": pixels, "label": index % 5, "bad_index": index if index in self.bad else -1}

    def name(self, index):
        return f"noise {range(self.count)[index]}"


@pytest.mark.parametrize(("count", "processes"), [(10, 3), (2, 8), (7, 7), (1000, 16)])
def test_parts_cover_everything_once_and_evenly(count, processes):
    shares = parts(count, processes)
    assert [index for start, stop in shares for index in range(start, stop)] == list(range(count))
    sizes = [stop - start for start, stop in shares]
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 1


def test_two_processes_give_the_features_of_one():
    torch.manual_seed(0)
    model = SynCoModel(SynCoConfig(backbone="vit-nano")).eval()
    dataset, settings = Noise(23, bad=(3, 20)), ExtractionSettings(batch_size=4, max_bad_fraction=0.1, progress=False)
    one = extract_features(model, dataset, settings)
    two = extract_features_in_processes(model, dataset, replace(settings, num_processes=2))
    torch.testing.assert_close(two.values, one.values, rtol=1e-5, atol=1e-6)
    assert torch.equal(two.labels, one.labels)
    assert torch.equal(two.indices, one.indices)
    assert two.skipped.tolist() == [3, 20]
    assert two.facts == one.facts


def test_the_share_of_unreadable_images_is_that_of_the_whole(monkeypatch):
    # Threads stand for processes here, which take seconds to start.
    monkeypatch.setattr(feature_processes, "fresh_processes", concurrent.futures.ThreadPoolExecutor)
    model = SynCoModel(SynCoConfig(backbone="vit-nano")).eval()
    dataset = Noise(20, bad=(0, 1, 2))  # 30 % of the first half, 15 % of all
    kind = ExtractionSettings(batch_size=4, max_bad_fraction=0.2, progress=False, num_processes=2)
    assert len(extract_features_in_processes(model, dataset, kind).values) == 17
    strict = replace(kind, max_bad_fraction=0.1)
    with pytest.raises(ValueError, match=r"3 of 20 images cannot be read: noise 0, noise 1, noise 2"):
        extract_features_in_processes(model, dataset, strict)


def test_bad_numbers_of_processes_are_refused():
    with pytest.raises(ValueError, match="num_processes=0: give at least 1"):
        ExtractionSettings(num_processes=0)
    with pytest.raises(ValueError, match=f"--num-processes {torch.cuda.device_count() + 1} with"):
        devices_of("cuda", torch.cuda.device_count() + 1)
    assert devices_of(None, 2) == ["cpu", "cpu"]
    assert devices_of("cuda:3", 2) == ["cuda:3", "cuda:3"]


def test_a_part_names_and_reads_the_images_of_the_whole():
    part = DatasetPart(Noise(10), 4, 7)
    assert len(part) == 3
    assert [part.name(index) for index in range(3)] == ["noise 4", "noise 5", "noise 6"]
    assert torch.equal(part[1]["pixel_values"], Noise(10)[5]["pixel_values"])
    assert [DatasetPart(Noise(10, bad=(5,)), 4, 7)[index]["bad_index"] for index in range(3)] == [-1, 1, -1]
