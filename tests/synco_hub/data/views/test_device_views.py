import colorsys
import itertools
import logging
import math
import weakref
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as F
from PIL import Image
from pillow_views import PillowTwoViewTransform, apply_view
from pretended_gpu import pretended_gpu
from scipy import stats
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from synco_hub.data.samplers import derive_random_key
from synco_hub.data.views import device_views
from synco_hub.data.views.dataset import TwoViewCollator
from synco_hub.data.views.device_views import (
    DeviceViews,
    SplitTwoViewTransform,
    _adjust_hue,
    _blend,
    _blur,
    _gray,
    _jitter_color,
    _kernel_weights,
    _reflected_offsets,
    finish_views,
)
from synco_hub.data.views.draws import DRAW_ROW, ColorJitterDraw, ViewDraw, draw_row, draw_view
from synco_hub.data.views.parameters import TwoViewParameters
from synco_hub.data.views.worker_views import crop_resized

PLAIN = TwoViewParameters(mean=(0, 0, 0), std=(1 / 255, 1 / 255, 1 / 255))  # views in grey levels
STILL = ViewDraw(0, 0, 32, 32, False, None, False, None, False)
COUNT = 10_000


def photograph(seed: int, width: int = 64, height: int = 48) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def rows(draws: list[ViewDraw]) -> torch.Tensor:
    return torch.tensor([draw_row(draw) for draw in draws], dtype=torch.float32)


def finished(transform: SplitTwoViewTransform, pairs: list) -> list[torch.Tensor]:
    half = transform.device_half()
    return [
        half(torch.stack([pair[view].crop for pair in pairs]), torch.stack([pair[view].draw for pair in pairs]))
        for view in (0, 1)
    ]


def only(step: int, value: float) -> ColorJitterDraw:
    values = [1.0, 1.0, 1.0, 0.0]
    values[step] = value
    return ColorJitterDraw(*values, (step,))


# Grey levels between the device pass and Pillow's: most for any channel value, and on average. The
# latter rounds to 8 bits after every step (Pillow's blends even cut off) and keeps the hue in 8 bits.
@pytest.mark.parametrize(
    ("changes", "most", "mean"),
    [
        ({}, 1e-3, 1e-3),
        ({"flip": True}, 1e-3, 1e-3),
        ({"grayscale": True}, 0.51, 0.3),
        ({"blur_sigma": 0.1}, 0.51, 0.3),
        ({"blur_sigma": 1.3}, 0.51, 0.3),
        ({"solarize": True}, 1e-3, 1e-3),
        ({"color_jitter": only(0, 1.37)}, 1.01, 0.6),
        ({"color_jitter": only(0, 0.61)}, 1.01, 0.6),
        ({"color_jitter": only(1, 1.4)}, 1.3, 0.7),
        ({"color_jitter": only(1, 0.6)}, 1.3, 0.7),
        ({"color_jitter": only(2, 1.2)}, 1.3, 0.7),
        ({"color_jitter": only(2, 0.8)}, 1.3, 0.7),
        ({"color_jitter": only(3, 0.1)}, 20, 3),
        ({"color_jitter": only(3, -0.07)}, 20, 3),
    ],
)
def test_each_step_alone_is_the_references(changes: dict, most: float, mean: float) -> None:
    image, draw = photograph(1, 32, 32), STILL._replace(**changes)
    crop = torch.from_numpy(np.array(image))[None]
    difference = (DeviceViews(32, PLAIN)(crop, rows([draw]))[0] - apply_view(image, draw, 32, PLAIN)).abs()
    assert difference.max() <= most
    assert difference.mean() <= mean


@pytest.mark.parametrize("size", [32, 96])
def test_all_together_are_the_references(size: int) -> None:
    images = [photograph(index) for index in range(60)]
    split, reference = SplitTwoViewTransform(size, PLAIN), PillowTwoViewTransform(size, PLAIN)
    expected = [reference(image, key) for key, image in enumerate(images)]
    views = finished(split, [split(np.array(image), key) for key, image in enumerate(images)])
    for view in (0, 1):
        jittered = [draw_view(PLAIN, view, 64, 48, key).color_jitter is not None for key in range(60)]
        for key, (ours, pair) in enumerate(zip(views[view], expected, strict=True)):
            difference = (ours - pair[view]).abs()
            assert difference.mean() <= (2.6 if jittered[key] else 0.5)
            assert difference.quantile(0.99) <= (18 if jittered[key] else 1.01)
            assert difference.max() <= (32 if jittered[key] else 2.01)


def test_a_sample_does_not_depend_on_its_batch() -> None:
    split = SplitTwoViewTransform(48)
    pairs = [split(np.array(photograph(index)), derive_random_key(1, index)) for index in range(12)]
    whole, alone = finished(split, pairs), [finished(split, [pair]) for pair in pairs]
    for view in (0, 1):
        torch.testing.assert_close(whole[view], torch.cat([each[view] for each in alone]), atol=2e-5, rtol=0)
    assert whole[0].shape == (12, 3, 48, 48)
    assert whole[0].dtype == torch.float32
    assert whole[0].is_contiguous()
    assert all(torch.equal(a, b) for a, b in zip(whole, finished(split, pairs), strict=True))


def test_half_precision_around_it_costs_no_grey_level() -> None:
    split = SplitTwoViewTransform(32)
    pairs = [split(np.array(photograph(index)), index) for index in range(8)]
    expected = finished(split, pairs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert all(torch.equal(a, b) for a, b in zip(finished(split, pairs), expected, strict=True))


def test_one_graph_for_torch_compile() -> None:
    split = SplitTwoViewTransform(16)
    pairs = [split(np.array(photograph(index)), index) for index in range(4)]
    crops, draws = torch.stack([pair[0].crop for pair in pairs]), torch.stack([pair[0].draw for pair in pairs])
    half = split.device_half()
    compiled = torch.compile(half, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(crops, draws), half(crops, draws))


def test_finished_views_of_either_kind_of_batch() -> None:
    split = SplitTwoViewTransform(16)
    pairs = [split(np.array(photograph(index)), index) for index in range(4)]
    batch = TwoViewCollator()([{"view_1": a, "view_2": b, "index": 0, "bad_index": -1} for a, b in pairs])
    views = finish_views(split.device_half(), batch)
    assert all(torch.equal(a, b) for a, b in zip(views, finished(split, pairs), strict=True))
    whole = {"view_1": views[0], "view_2": views[1]}
    assert finish_views(None, whole) == views
    with pytest.raises(ValueError, match=r"device_half.*--augment-on worker"):
        finish_views(None, batch)


def test_on_a_pretended_gpu_nothing_waits_or_stays_behind() -> None:
    split = SplitTwoViewTransform(32)
    pairs = [split(np.array(photograph(index)), index) for index in range(4)]
    crops, draws = torch.stack([pair[0].crop for pair in pairs]), torch.stack([pair[0].draw for pair in pairs])
    half = split.device_half()
    with pretended_gpu() as gpu:
        views = gpu.put(half)(gpu.put(crops), gpu.put(draws))
        assert views.device.type == "cuda"
        assert views.shape == (4, 3, 32, 32)


class LivingBytes(TorchDispatchMode):
    """Counts the storages that operations made and that are still held."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            storage = tensor.untyped_storage() if isinstance(tensor, torch.Tensor) else None
            if storage is not None and storage._cdata not in self._known:
                self._known.add(storage._cdata)
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self._free, storage._cdata, storage.nbytes())
        return result

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


# The first of them, distorted as a whole, took 2,156 MiB beside the crops.
@pytest.mark.parametrize(("number", "side"), [(512, 224), (511, 224), (8192, 56), (170, 384), (1, 224), (0, 224)])
def test_both_views_of_a_batch_need_less_than_a_gibibyte(number: int, side: int) -> None:
    with pretended_gpu() as gpu:
        half = gpu.put(DeviceViews(side))
        batch = {f"view_{view}": gpu.put(torch.zeros(number, side, side, 3, dtype=torch.uint8)) for view in (1, 2)}
        batch |= {f"draw_{view}": gpu.put(torch.zeros(number, len(DRAW_ROW))) for view in (1, 2)}
        with LivingBytes() as memory:
            views = finish_views(half, batch)
    assert all(view.shape == (number, 3, side, side) and view.dtype == torch.float32 for view in views)
    assert memory.most <= 2**30


@pytest.mark.parametrize("number", [1, 6, 12, 13, 17])
def test_pieces_are_the_whole_batch(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_views, "PIECE_PIXELS", 6 * 32**2)
    split = SplitTwoViewTransform(32)
    pairs = [split(np.array(photograph(index)), index) for index in range(number)]
    crops, draws = torch.stack([pair[0].crop for pair in pairs]), torch.stack([pair[0].draw for pair in pairs])
    half = split.device_half()
    sizes = []
    distort = half._distort
    monkeypatch.setattr(half, "_distort", lambda *piece: sizes.append(len(piece[0])) or distort(*piece))
    torch.testing.assert_close(half._distort_in_pieces(crops, draws), half(crops, draws), atol=2e-5, rtol=0)
    assert sizes.pop() == number  # the CPU's way
    assert len(set(sizes)) == 1
    assert sizes[0] <= 6
    assert len(sizes) == math.ceil(number / 6)


def some_crops(side: int, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    split = SplitTwoViewTransform(side)
    pairs = [split(np.array(photograph(index)), index) for index in range(number)]
    return torch.stack([pair[0].crop for pair in pairs]), torch.stack([pair[0].draw for pair in pairs])


def test_one_compiled_graph_serves_every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_views, "PIECE_PIXELS", 6 * 16**2)
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    half = DeviceViews(16)
    half.compile(backend=backend)
    assert not graphs  # nothing before the first batch
    for number in (17, 17, 18):
        crops, draws = some_crops(16, number)
        ours = half._distort_in_pieces(crops, draws)
        torch.testing.assert_close(ours, DeviceViews(16)(crops, draws), atol=2e-5, rtol=0)
    assert len(graphs) == 1


def test_a_compiler_that_fails_is_done_without_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    def backend(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("Failed to find C compiler.\nPlease set CC.")

    half, (crops, draws) = DeviceViews(16), some_crops(16, 5)
    half.compile(backend=backend)
    with caplog.at_level(logging.WARNING):
        assert all(torch.equal(half(crops, draws), DeviceViews(16)(crops, draws)) for _ in range(3))
    [record] = [record for record in caplog.records if record.name == device_views.logger.name]
    assert "without torch.compile" in record.getMessage()
    assert "Failed to find C compiler." in record.getMessage()


def test_memory_that_runs_out_is_no_failure_of_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    half = DeviceViews(16)
    half.compile(backend="eager")

    def out_of_memory(*piece: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(half, "_compiled", out_of_memory)
    with pytest.raises(torch.OutOfMemoryError):
        half(*some_crops(16, 2))


@pytest.mark.slow
def test_what_the_compiler_makes_are_the_same_views() -> None:
    half, (crops, draws) = DeviceViews(32), some_crops(32, 24)
    expected = half(crops, draws)
    half.compile(fullgraph=True)
    torch.testing.assert_close(half(crops, draws), expected, atol=1e-4, rtol=0)
    assert half._compiled is not None


@pytest.mark.gpu
def test_on_a_gpu_compiled_in_bounded_memory() -> None:
    crops, draws = some_crops(224, 64)
    crops, draws = crops.repeat(8, 1, 1, 1).cuda(), draws.repeat(8, 1).cuda()
    half = DeviceViews(224).cuda()
    expected = half(crops, draws)
    half.compile()
    half(crops, draws)
    assert half._compiled is not None
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    views = finish_views(half, {"view_1": crops, "view_2": crops, "draw_1": draws, "draw_2": draws})
    assert torch.cuda.max_memory_allocated() - before <= 2**30
    assert (views[0] - expected).abs().mean() < 1e-3


@pytest.mark.gpu
def test_on_a_gpu_the_same_views_without_waiting_for_it() -> None:
    split = SplitTwoViewTransform(96, PLAIN)
    pairs = [split(np.array(photograph(index)), index) for index in range(32)]
    crops, draws = torch.stack([pair[0].crop for pair in pairs]), torch.stack([pair[0].draw for pair in pairs])
    half = split.device_half()
    expected = half(crops, draws)
    half, crops, draws = half.cuda(), crops.cuda(), draws.cuda()
    first = half(crops, draws)
    torch.cuda.set_sync_debug_mode("error")
    try:
        again = half(crops, draws)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(first, again)
    assert (first.cpu() - expected).abs().mean() < 0.01


def test_it_has_no_state() -> None:
    assert DeviceViews(32).state_dict() == {}
    assert list(DeviceViews(32).parameters()) == []


def test_one_and_two_pixels() -> None:
    for size in (1, 2):
        split = SplitTwoViewTransform(size, PLAIN)
        views = finished(split, [split(np.array(photograph(index)), index) for index in range(20)])
        assert all(torch.isfinite(view).all() and view.shape == (20, 3, size, size) for view in views)


# What comes out, not only what was drawn: the numbers of Table 11 read off 10,000 finished views, one at a time.
NOTHING = {
    "random_crop_probability": 0.0,
    "flip_probability": 0.0,
    "color_jitter_probability": 0.0,
    "brightness": 0.0,
    "contrast": 0.0,
    "saturation": 0.0,
    "hue": 0.0,
    "color_dropping_probability": 0.0,
    "gaussian_blur_probability": (0.0, 0.0),
    "solarization_probability": (0.0, 0.0),
}
SIDE = 8


def outputs(view: int, pixels: Any, *names: str) -> torch.Tensor:
    """Views in [0, 1] of one image, everything turned off but some parameters. Shape: (10,000, 3, 8, 8)."""
    paper = vars(TwoViewParameters())
    chosen = {**NOTHING, **{name: paper[name] for name in names}, "mean": (0, 0, 0), "std": (1, 1, 1)}
    parameters = TwoViewParameters(**chosen)
    draws = rows([draw_view(parameters, view, SIDE, SIDE, derive_random_key(3, 1, index)) for index in range(COUNT)])
    crop = torch.tensor(pixels, dtype=torch.uint8).expand(SIDE, SIDE, 3)
    return DeviceViews(SIDE, parameters)(crop.expand(COUNT, -1, -1, -1), draws)


def sides(left: int, right: int) -> list[list[list[int]]]:
    """An image of two halves."""
    return [[[left if column < SIDE // 2 else right] * 3 for column in range(SIDE)] for _ in range(SIDE)]


def share_matches(chosen: torch.Tensor, probability: float) -> bool:
    count = int(chosen.sum())
    return count == round(probability * COUNT) or stats.binomtest(count, COUNT, probability).pvalue > 1e-4


def is_uniform(values: Any, low: float, high: float) -> bool:
    return bool(stats.kstest(np.asarray(values, dtype=float), stats.uniform(low, high - low).cdf).pvalue > 1e-4)


@pytest.mark.parametrize("view", [0, 1])
def test_shares_in_the_outputs(view: int) -> None:
    mirrored = outputs(view, sides(0, 255), "flip_probability")[:, 0, 0, 0] == 1
    assert share_matches(mirrored, 0.5)
    colours = outputs(view, [120, 90, 70], "color_dropping_probability")[:, :, 0, 0]
    assert share_matches(colours.amax(1) - colours.amin(1) < 1e-6, 0.2)
    inverted = outputs(view, [200, 200, 200], "solarization_probability")[:, 0, 0, 0] < 0.5
    assert share_matches(inverted, (0.0, 0.2)[view])
    dark = outputs(view, [100, 100, 100], "solarization_probability")
    assert (dark == dark[0]).all()


def test_colour_jitter_in_the_outputs() -> None:
    view, jitter = 1, "color_jitter_probability"
    brightness = outputs(view, [100, 100, 100], jitter, "brightness")[:, 0, 0, 0] * 255 / 100
    changed = brightness != brightness.mode().values
    assert share_matches(changed, 0.8)
    assert is_uniform(brightness[changed], 0.6, 1.4)
    two_tones = outputs(view, sides(110, 150), jitter, "contrast")
    contrast = (two_tones[:, 0, 0, 7] - two_tones[:, 0, 0, 0]) * 255 / 40
    assert is_uniform(contrast[changed], 0.6, 1.4)
    colours = outputs(view, [120, 90, 70], jitter, "saturation")[:, :, 0, 0]
    assert is_uniform(((colours[:, 0] - colours[:, 2]) * 255 / 50)[changed], 0.8, 1.2)
    colours = outputs(view, [120, 90, 70], jitter, "hue")[:, :, 0, 0]
    first = colorsys.rgb_to_hsv(120, 90, 70)[0]
    turns = [(colorsys.rgb_to_hsv(*colour)[0] - first + 0.5) % 1 - 0.5 for colour in colours[changed].tolist()]
    assert is_uniform(turns, -0.1, 0.1)


@pytest.mark.parametrize("view", [0, 1])
def test_blur_in_the_outputs(view: int) -> None:
    # With three taps, the dark column beside the bright half shows w / (1 + 2 w), w = exp(-1 / 2 sigma^2).
    share = outputs(view, sides(0, 255), "gaussian_blur_probability", "blur_sigma")[:, 0, 4, 3].double()
    weight = share / (1 - 2 * share)
    sigma = (-0.5 / weight.log()).sqrt()
    seen = sigma > 0.25  # below, the column stays dark to the last bit
    probability = (1.0, 0.1)[view]
    assert share_matches(seen, probability * 1.75 / 1.9)
    assert is_uniform(sigma[seen], 0.25, 2.0)
    assert int((share > 0).sum()) <= COUNT * (probability + 0.02)


def image(seed: int, width: int = 50, height: int = 37) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_view_is_its_crop_and_its_draw() -> None:
    picture = image(0)
    for view, cropped in enumerate(SplitTwoViewTransform(32)(picture, 77)):
        draw = draw_view(TwoViewParameters(), view, 50, 37, 77)
        assert np.array_equal(cropped.crop, crop_resized(picture, draw, 32))
        assert torch.equal(cropped.draw, torch.tensor(draw_row(draw), dtype=torch.float32))
        assert (cropped.crop.dtype, cropped.crop.shape) == (torch.uint8, (32, 32, 3))
        assert (cropped.draw.dtype, cropped.draw.shape) == (torch.float32, (len(DRAW_ROW),))


def test_crops_are_a_function_of_their_key_that_leaves_global_generators_alone() -> None:
    transform, picture = SplitTwoViewTransform(16), image(1)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    first, again, other = transform(picture, 5), transform(picture, 5), transform(picture, 6)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    assert all(torch.equal(a, b) for x, y in zip(first, again, strict=True) for a, b in zip(x, y, strict=True))
    assert not torch.equal(first[0].crop, other[0].crop)
    assert not torch.equal(first[0].crop, first[1].crop)


def test_the_other_half_knows_size_and_parameters() -> None:
    parameters = TwoViewParameters(mean=(0.1, 0.2, 0.3), solarization_threshold=51)
    half = SplitTwoViewTransform(64, parameters).device_half()
    assert isinstance(half, DeviceViews)
    assert half.offsets.shape == (4, 64, 64)
    assert half.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert half.solarization_threshold == pytest.approx(0.2)


def test_impossible_size() -> None:
    with pytest.raises(ValueError, match="image size 0"):
        SplitTwoViewTransform(0)


def random_images(seed: int, count: int = 24) -> torch.Tensor:
    return torch.rand(count, 3, 9, 7, generator=torch.Generator().manual_seed(seed))


def column(values: torch.Tensor) -> torch.Tensor:
    return values[:, None, None, None]


def test_gray_weights() -> None:
    images = random_images(0)
    expected = images.movedim(1, -1) @ torch.tensor([0.299, 0.587, 0.114])
    torch.testing.assert_close(_gray(images)[:, 0], expected)


@pytest.mark.parametrize(
    ("kind", "shares"), [("brightness", (0.0, 0.0)), ("contrast", (0.0, 1.0)), ("saturation", (1.0, 0.0))]
)
def test_each_blend_is_torchvisions(kind: str, shares: tuple[float, float]) -> None:
    images = random_images(1)
    factors = torch.empty(24).uniform_(0.2, 1.8, generator=torch.Generator().manual_seed(2))
    gray_share, mean_share = (torch.full((24, 1, 1, 1), share) for share in shares)
    ours = _blend(images, column(factors), gray_share, mean_share)
    theirs = [
        getattr(F, f"adjust_{kind}")(image, float(factor)) for image, factor in zip(images, factors, strict=True)
    ]
    # Its weight of red is rounded to 0.2989.
    torch.testing.assert_close(ours, torch.stack(theirs), atol=2e-4, rtol=0)


def test_the_hue_turns_as_the_colour_circle_of_the_standard_library() -> None:
    images = random_images(3, 6)
    images[0, :, 0, 0] = 0.4  # gray
    images[0, :, 0, 1] = 0.0  # black
    images[0, :, 0, 2] = torch.tensor([1.0, 1.0, 0.0])  # two channels are highest
    hue = torch.tensor([0.1, -0.1, 0.5, -0.03, 0.0, 0.33])
    ours = _adjust_hue(images, column(hue)).movedim(1, -1).flatten(1, 2).numpy()
    for image, turn, turned in zip(images.movedim(1, -1).flatten(1, 2), hue.tolist(), ours, strict=True):
        for pixel, result in zip(image.tolist(), turned, strict=True):
            h, s, v = colorsys.rgb_to_hsv(*pixel)
            assert np.allclose(result, colorsys.hsv_to_rgb((h + turn) % 1, s, v), atol=2e-6)


def test_all_orders_in_one_batch_are_torchvisions_one_by_one() -> None:
    orders = list(itertools.permutations(range(4)))
    images = random_images(4, len(orders))
    generator = torch.Generator().manual_seed(5)
    values = torch.rand(len(orders), 4, generator=generator) * torch.tensor([0.8, 0.8, 0.4, 0.2])
    values += torch.tensor([0.6, 0.6, 0.8, -0.1])
    names = ("brightness", "contrast", "saturation", "hue")
    expected = []
    for image, order, row in zip(images, orders, values.tolist(), strict=True):
        for step in order:
            image = getattr(F, f"adjust_{names[step]}")(image, row[step])
        expected.append(image)
    blends = torch.tensor([[step for step in order if step != 3] for order in orders])
    before = torch.tensor([[order.index(3)] for order in orders])
    ours = _jitter_color(
        images, values.gather(1, blends), (blends == 2).float(), (blends == 1).float(), before, column(values[:, 3])
    )
    torch.testing.assert_close(ours, torch.stack(expected), atol=1e-3, rtol=0)


def test_factors_of_one_change_no_bit() -> None:
    images = random_images(6)
    ones, zeros = torch.ones(24, 3), torch.zeros(24, 3)
    for before in range(4):
        same = _jitter_color(images, ones, zeros, ones, torch.full((24, 1), before), torch.zeros(24, 1, 1, 1))
        assert torch.equal(same, images)


@pytest.mark.parametrize(("size", "radius"), [(2, 1), (5, 4), (16, 1), (40, 11)])
def test_the_matrix_of_taps_is_padding_by_reflection(size: int, radius: int) -> None:
    offsets = _reflected_offsets(size, radius)
    assert offsets.shape == (radius + 1, size, size)
    padded = np.pad(np.arange(size), radius, mode="reflect")
    for tap in range(radius + 1):
        for place in range(size):
            count = np.zeros(size)
            for reach in {place + radius - tap, place + radius + tap}:
                count[padded[reach]] += 1
            assert offsets[tap, place].tolist() == count.tolist()


def test_blur_of_one_pixel() -> None:
    images = torch.rand(2, 3, 1, 1)
    assert torch.equal(_blur(images, torch.tensor([1.0, 0.0]), _reflected_offsets(1, 0)), images)


def test_weights_of_the_blur() -> None:
    weights = _kernel_weights(torch.tensor([0.8, 0.0, 2.0]), 3)
    for row, sigma in ((weights[0], 0.8), (weights[2], 2.0)):
        whole = [math.exp(-0.5 * (tap / sigma) ** 2) for tap in range(-3, 4)]
        assert row.tolist() == pytest.approx([value / sum(whole) for value in whole[3:]], rel=1e-5)
    assert weights[1].tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize(("size", "radius"), [(40, 11), (32, 1), (13, 6)])
def test_each_image_is_blurred_as_torchvision_blurs_it(size: int, radius: int) -> None:
    generator = torch.Generator().manual_seed(size)
    images = torch.rand(5, 3, size, size, generator=generator)
    sigma = torch.tensor([0.1, 0.5, 1.0, 1.7, 2.0])
    ours = _blur(images, sigma, _reflected_offsets(size, radius))
    side = 2 * radius + 1
    theirs = [
        F.gaussian_blur(image, [side, side], [width, width])
        for image, width in zip(images, sigma.tolist(), strict=True)
    ]
    torch.testing.assert_close(ours, torch.stack(theirs), atol=2e-6, rtol=0)


def test_images_that_stay_sharp_keep_their_bits_beside_others() -> None:
    images = torch.rand(4, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    result = _blur(images, torch.tensor([0.0, 1.0, 0.0, 2.0]), _reflected_offsets(24, 5))
    assert torch.equal(result[::2], images[::2])
    assert not torch.equal(result[1], images[1])
