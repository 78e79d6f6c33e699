"""Data sets of torch, torchvision and `datasets` as view pairs: `synco_hub.data.views.own_data` and its users."""

import io
import random

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from synco_hub.data.samplers import derive_random_key
from synco_hub.data.views.dataset import (
    OwnViews,
    TwoViewCollator,
    TwoViewDataset,
    describe_views,
    is_own_data,
    open_view_pairs,
    read_batch,
)
from synco_hub.data.views.own_data import find_images, repeatable_draws, takes_key, to_pixels
from synco_hub.data.views.worker_views import TwoViewTransform

SIZE = 16
PICTURES = [
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=np.uint8)) for seed in range(6)
]
CROP = v2.Compose(
    [v2.RandomResizedCrop(SIZE), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5], [0.25])]
)


class Listed(Dataset):
    """Asked by whole numbers and nothing else."""

    def __init__(self, make) -> None:
        self.make = make

    def __len__(self) -> int:
        return len(PICTURES)

    def __getitem__(self, index):
        assert type(index) is int
        return self.make(PICTURES[index])


def tensor(image) -> torch.Tensor:
    return functional.pil_to_tensor(image)


IMAGES = {
    "Pillow": lambda image: image,
    "tuple": lambda image: (image, 3),
    "dict": lambda image: {"image": image, "label": 3},
    "array": np.array,
    "tensor": tensor,
    "floats": lambda image: tensor(image) / 255,
    "target": lambda image: (tensor(image), torch.tensor([1.0, 2.0])),
    "mask": lambda image: (image, Image.new("L", image.size)),
    "bytes": lambda image: {"image": {"bytes": encoded(image), "path": None}},
}
VIEWS = {
    "one view": CROP,
    "before a label": lambda image: (CROP(image), 1),
    "tuple": lambda image: (CROP(image), CROP(image)),
    "tuple before a label": lambda image: ((CROP(image), CROP(image)), 1),
    "list": lambda image: [CROP(image), CROP(image)],
    "dict": lambda image: {"view_1": CROP(image), "view_2": CROP(image), "label": 2},
    "stack": lambda image: torch.stack([CROP(image), CROP(image)]),
    "column of two": lambda image: {"pixel_values": [CROP(image), CROP(image)]},
}


def encoded(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def opened(dataset, seed: int = 3):
    return open_view_pairs(dataset, TwoViewTransform(SIZE), seed)


@pytest.mark.parametrize("kind", IMAGES)
def test_images_get_the_views_that_the_packages_own_images_get(kind):
    pair = opened(Listed(IMAGES[kind]))[2, 4]
    expected = TwoViewTransform(SIZE)(PICTURES[4], derive_random_key(3, 2, 4))
    for view, other in zip((pair["view_1"], pair["view_2"]), expected, strict=True):
        torch.testing.assert_close(view, other, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", VIEWS)
def test_finished_views_are_kept_two_different_ones_the_same_again_whatever_was_drawn(kind):
    pairs = opened(Listed(VIEWS[kind]))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = pairs[1, 2]
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(17)
    again, later = pairs[1, 2], pairs[2, 2]
    assert first["view_1"].shape == first["view_2"].shape == (3, SIZE, SIZE)
    for name in ("view_1", "view_2"):
        assert torch.equal(first[name], again[name])
        assert not torch.equal(first[name], later[name])
    assert not torch.equal(first["view_1"], first["view_2"])
    assert describe_views(pairs, TwoViewCollator(), SIZE)[0] == SIZE


def test_data_sets_of_other_libraries(tmp_path):
    plain = datasets.Dataset.from_dict({"image": PICTURES, "label": [0] * 6}, features=datasets.Features(
        {"image": datasets.Image(), "label": datasets.Value("int64")}))  # fmt: skip
    own = opened(plain)[1, 2]
    assert torch.equal(own["view_1"], TwoViewTransform(SIZE)(PICTURES[2], derive_random_key(3, 1, 2))[0])
    pairs = opened(plain.with_transform(lambda rows: {"views": [[CROP(x), CROP(x)] for x in rows["image"]]}))
    assert isinstance(pairs, OwnViews)
    assert pairs[0, 1]["view_2"].shape == (3, SIZE, SIZE)
    assert torch.equal(opened(plain.with_format("torch"))[1, 2]["view_2"], own["view_2"])
    for index, picture in enumerate(PICTURES):
        (tmp_path / "a").mkdir(exist_ok=True)
        picture.save(tmp_path / "a" / f"{index}.png")
    folder = ImageFolder(str(tmp_path))
    assert torch.equal(opened(folder)[1, 2]["view_1"], own["view_1"])
    assert opened(folder).name(2).endswith("2.png")
    pairs = opened(ImageFolder(str(tmp_path), transform=CROP))
    assert describe_views(pairs, TwoViewCollator(), SIZE) == (SIZE, (0.5,) * 3, (0.25,) * 3)
    (tmp_path / "a" / "2.png").write_bytes(b"no picture")
    assert [opened(folder)[0, index]["bad_index"] for index in range(4)] == [-1, -1, 2, -1]


def test_a_transform_of_an_image_alone_is_called_twice():
    pairs = TwoViewDataset(Listed(IMAGES["tuple"]), CROP, seed=1)
    first, second = pairs[0, 3], pairs[0, 3]
    assert torch.equal(first["view_1"], second["view_1"])
    assert not torch.equal(first["view_1"], first["view_2"])
    both = TwoViewDataset(Listed(IMAGES["tuple"]), lambda image: (CROP(image), CROP(image)), seed=1)[0, 3]
    assert torch.equal(both["view_1"], first["view_1"])
    assert describe_views(pairs, TwoViewCollator(), SIZE) == (SIZE, (0.5,) * 3, (0.25,) * 3)
    plain = v2.Compose([v2.RandomResizedCrop(SIZE), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)])
    pairs = TwoViewDataset(Listed(IMAGES["Pillow"]), plain)
    assert describe_views(pairs, TwoViewCollator(), SIZE) == (SIZE, (0.0,) * 3, (1.0,) * 3)
    with pytest.raises(ValueError, match="The views are 3x16x16, and the network takes 3x32x32"):
        describe_views(pairs, TwoViewCollator(), 32)
    assert [takes_key(each) for each in (CROP, TwoViewTransform(8), lambda x: x, lambda x, k: x)] == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (None, "is no data set: give synco_hub.data.load_dataset"),
        ("photographs", "is no data set"),
        ({"train": [1], "test": [2]}, "a dict of several, 'train', 'test'"),
        (DataLoader(PICTURES), "a DataLoader: give its data set"),
        (type("Rows", (IterableDataset,), {"__iter__": iter})(), "cannot be asked by position"),
        ([], "an empty list"),
        (Listed(lambda image: "a.png"), r"no image \(str\)"),
        (Listed(lambda image: {"label": 3}), r"no image \(a dict of label: int\)"),
        (Listed(lambda image: {"a": image, "b": image}), r"several columns of images \(a, b\)"),
        (Listed(lambda image: [CROP(image)] * 3), "3 views of an image"),
        (Listed(lambda image: ((CROP(image),) * 3, 1)), "3 views of an image"),
        (Listed(lambda image: {f"view_{number}": CROP(image) for number in (1, 2, 3)}), "3 views of an image"),
        (Listed(lambda image: tensor(image) / 255 - 0.5), r"same normalised tensor .* leave out the normalisation"),
    ],
)
def test_what_is_neither_image_nor_views_is_refused_with_what_to_do(dataset, message):
    with pytest.raises(ValueError, match=message) as error:
        opened(dataset)
    assert "\n" not in str(error.value)


def test_a_third_view_of_a_transform_is_not_dropped():
    for transform in (lambda pixels, key: (1, 2, 3), lambda image: [CROP(image)] * 3):
        with pytest.raises(ValueError, match="3 views of an image"):
            TwoViewDataset(PICTURES, transform)[0, 0]


class Keyed:
    """Written for (epoch, index), as the trainer's own."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, key):
        epoch, index = key
        return {"view_1": torch.full((3, 8, 8), float(epoch)), "view_2": torch.full((3, 8, 8), float(index))}


def test_what_was_written_for_epoch_and_index_stays():
    keyed = Keyed()
    assert opened(keyed) is keyed
    assert not is_own_data(keyed)
    assert not is_own_data(opened(PICTURES))
    assert is_own_data(PICTURES)
    assert TwoViewCollator()([keyed[0, 1], keyed[0, 2]])["bad_index"].tolist() == [-1, -1]


def test_batches_of_own_collators():
    view = torch.zeros(2, 3, 8, 8)
    for batch in ({"view_1": view, "view_2": view, "label": 1}, (view, view), [view, view], ((view, view), 3)):
        assert set(read_batch(batch)) == {"view_1", "view_2"}
    for batch in ({"image": view}, {f"view_{n}": view for n in (1, 2, 3)}, view, (view,), [view, view, view]):
        with pytest.raises(ValueError, match="view_1 and view_2"):
            read_batch(batch)


def test_draws_come_again_and_nothing_outside_moves():
    def draw():
        return torch.rand(1).item(), np.random.rand(), random.random()

    before = draw(), torch.get_rng_state()
    drawn = []
    for key in (7, 7, 8):
        with repeatable_draws(key):
            drawn.append(draw())
    assert drawn[0] == drawn[1]
    assert all(one != other for one, other in zip(drawn[0], drawn[2], strict=True))
    assert torch.equal(before[1], torch.get_rng_state())


def test_pixels_of_every_kind_of_array():
    gray = np.arange(20 * 24, dtype=np.uint16).reshape(20, 24)
    wide = gray * (65535 // gray.max())
    assert to_pixels(torch.from_numpy(gray.astype(np.uint8))).shape == (20, 24, 3)
    assert to_pixels(wide[..., None])[-1, -1, 0] == round(int(wide.max()) / 257)
    assert to_pixels(torch.rand(4, 20, 24)).shape == (20, 24, 3)
    assert to_pixels(np.ones((1, 20, 24), dtype=bool)).min() == 255
    transparent = Image.new("RGBA", (5, 5), (255, 0, 0, 0))
    assert to_pixels(transparent).min() == 255
    assert len(find_images(TensorDataset(torch.rand(2, 3, 8, 8))[0])) == 1


def test_read_only_pixels_are_taken_without_a_warning(recwarn):
    assert to_pixels(np.asarray(PICTURES[0])).shape == (20, 24, 3)
    assert not recwarn.list
