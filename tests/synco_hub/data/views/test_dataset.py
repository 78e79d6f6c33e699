from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from synco_hub.data.fractals.dataset import FractalDataset, FractalParameters
from synco_hub.data.image_folder import load_image_folder
from synco_hub.data.samplers import EpochSampler, derive_random_key
from synco_hub.data.views.dataset import OwnViews, TwoViewCollator, TwoViewDataset
from synco_hub.data.views.device_views import SplitTwoViewTransform
from synco_hub.data.views.worker_views import TwoViewTransform


@pytest.fixture(scope="module")
def fractals(tmp_path_factory: pytest.TempPathFactory) -> FractalDataset:
    return FractalDataset("train", FractalParameters(4, 5, 1, 16), tmp_path_factory.mktemp("cache"))


def epochs(dataset: TwoViewDataset, num_workers: int, count: int = 2) -> list[dict[str, torch.Tensor]]:
    sampler = EpochSampler(len(dataset), seed=dataset.seed)
    loader = DataLoader(
        dataset,
        batch_size=8,
        sampler=sampler,
        collate_fn=TwoViewCollator(),
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        multiprocessing_context="fork" if num_workers else None,
    )
    batches = []
    for epoch in range(count):
        sampler.set_epoch(epoch)
        batches += list(loader)
    return batches


def test_an_item_is_the_transform_under_its_key(fractals: FractalDataset) -> None:
    transform = TwoViewTransform(16)
    item = TwoViewDataset(fractals, transform, seed=3)[2, 7]
    view_1, view_2 = transform(fractals[7].image, derive_random_key(3, 2, 7))
    assert torch.equal(item["view_1"], view_1)
    assert torch.equal(item["view_2"], view_2)
    assert (item["index"], item["bad_index"]) == (7, -1)


@pytest.mark.parametrize("make", [TwoViewDataset, lambda images, transform: OwnViews([torch.ones(3, 8, 8)] * 4)])
def test_a_key_without_an_epoch_is_refused(fractals: FractalDataset, make: Any) -> None:
    """It would give every epoch the same views."""
    with pytest.raises(TypeError, match=r"asked by \(epoch, index\).* not by 3: views\[0, 5\].*EpochSampler"):
        make(fractals, TwoViewTransform(16))[3]


def test_views_change_with_epoch_index_and_seed(fractals: FractalDataset) -> None:
    transform = TwoViewTransform(16)
    views = [
        TwoViewDataset(fractals, transform, seed)[epoch, index]["view_1"]
        for seed, epoch, index in ((0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0))
    ]
    assert all(not torch.equal(a, b) for k, a in enumerate(views) for b in views[:k])


def test_batches_do_not_depend_on_persistent_worker_processes(fractals: FractalDataset) -> None:
    dataset = TwoViewDataset(fractals, TwoViewTransform(16), seed=1)
    alone, two = epochs(dataset, 0), epochs(dataset, 2)
    assert len(alone) == len(two) == 6
    for a, b in zip(alone, two, strict=True):
        assert set(a) == {"view_1", "view_2", "bad_index"}
        assert all(torch.equal(a[key], b[key]) for key in a)
    assert alone[0]["view_1"].shape == (8, 3, 16, 16)
    assert alone[0]["bad_index"].dtype == torch.int64
    # The second epoch draws other views of the same images.
    first, second = (torch.cat([batch["view_1"] for batch in alone[k : k + 3]]) for k in (0, 3))
    assert not torch.equal(first.sort(0).values, second.sort(0).values)


def test_cropped_views_travel_with_their_draws(fractals: FractalDataset) -> None:
    transform = SplitTwoViewTransform(16)
    dataset = TwoViewDataset(fractals, transform, seed=1)
    alone, two = epochs(dataset, 0), epochs(dataset, 2)
    for a, b in zip(alone, two, strict=True):
        assert set(a) == {"view_1", "view_2", "draw_1", "draw_2", "bad_index"}
        assert all(torch.equal(a[key], b[key]) for key in a)
    assert alone[0]["view_1"].shape == (8, 16, 16, 3)
    assert alone[0]["view_2"].dtype == torch.uint8
    # Finished, they are the views that the worker makes of the same keys.
    half = transform.device_half()
    epoch_sampler = EpochSampler(len(dataset), seed=1)
    epoch_sampler.set_epoch(0)
    keys = list(epoch_sampler)[:8]
    whole = TwoViewCollator()([TwoViewDataset(fractals, TwoViewTransform(16), seed=1)[key] for key in keys])
    for number in "12":
        views = half(alone[0][f"view_{number}"], alone[0][f"draw_{number}"])
        assert (views - whole[f"view_{number}"]).abs().mean() < 0.05


def test_a_truncated_file_is_marked_and_replaced(tmp_path: Path) -> None:
    for number in range(6):
        Image.effect_noise((20, 20), 60).convert("RGB").save(tmp_path / f"{number}.png")
    data = (tmp_path / "2.png").read_bytes()
    (tmp_path / "2.png").write_bytes(data[: len(data) // 2])
    dataset = TwoViewDataset(load_image_folder(tmp_path), TwoViewTransform(16))
    items = [dataset[0, index] for index in range(6)]
    assert [item["bad_index"] for item in items] == [-1, -1, 2, -1, -1, -1]
    assert torch.isfinite(items[2]["view_1"]).all()
    assert torch.equal(dataset[0, 2]["view_2"], items[2]["view_2"])
    assert dataset.name(2) == "2.png"
    assert TwoViewCollator()(items)["bad_index"].tolist() == [-1, -1, 2, -1, -1, -1]
