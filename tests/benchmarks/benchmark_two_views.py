"""Times two views of a JPEG: ours against the pipeline as everybody writes it, Pillow with torchvision's transforms.

    OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 python tests/benchmarks/benchmark_two_views.py
    python tests/benchmarks/benchmark_two_views.py --device cuda

About two minutes; writes tests/benchmarks/results/two_views_cpu.json or two_views_cuda.json. Pictures of 500 × 375
pixels with the spectrum of photographs are made here, about 110 kB each. On a CPU a call turns the bytes of all of
them into pairs of views of 224 pixels, collated into a batch; processor time of one thread, so workers multiply it.
With a GPU the batched half is timed there, and what all cores' loader processes bring to it.
Expected: the worker's half of the split path handles 5 to 6 times as many images per core-second as the usual
pipeline (9 to 10 times if that blurs by torchvision), the whole path on a CPU 3 to 3.5 times as many; the batched
half, meant for an accelerator, loses on a CPU.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from interleaved import RESULTS, Finding, interleaved_seconds, median_ratio, write_report
from PIL import Image, ImageFilter
from torch.utils.data import DataLoader
from torchvision import transforms

from synco_hub.data import EpochSampler, TwoViewCollator, TwoViewDataset
from synco_hub.data.decoding import decode_pixels, decode_rgb
from synco_hub.data.image_dataset import DatasetDescription, ImageDataset
from synco_hub.data.views.device_views import SplitTwoViewTransform, finish_views
from synco_hub.data.views.parameters import TwoViewParameters
from synco_hub.data.views.transform import make_two_view_transform

sys.path.append(str(Path(__file__).resolve().parents[1]))
from pillow_views import PillowTwoViewTransform

IMAGE_SIZE = 224
WIDTH, HEIGHT = 500, 375


def photograph_bytes(seed: int) -> bytes:
    """A JPEG whose amplitude falls as 1 / frequency, as that of photographs does."""
    generator = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH)[None])
    frequency[0, 0] = 1
    planes = np.stack(
        [
            np.fft.irfft2(np.fft.rfft2(generator.standard_normal((HEIGHT, WIDTH))) / frequency, s=(HEIGHT, WIDTH))
            for _ in range(3)
        ],
        axis=-1,
    )
    planes /= planes.std()
    # Colours of a photograph are nearly gray: most of what a channel shows is brightness.
    levels = np.clip(128 + 55 * (0.8 * planes[..., :1] + 0.2 * planes), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


class PillowBlur:
    """Pillow's own blur, as most published pipelines take it: some box filters in place of a Gaussian."""

    def __init__(self, sigma: tuple[float, float]) -> None:
        self.sigma = sigma

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(float(torch.empty(1).uniform_(*self.sigma))))


def usual_view(parameters: TwoViewParameters, view: int, blur: Callable[[Any], Any]) -> transforms.Compose:
    """One view as published code composes it, with the numbers of Table 11."""
    p = parameters
    jitter = transforms.ColorJitter(p.brightness, p.contrast, p.saturation, p.hue)
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(
                IMAGE_SIZE, p.crop_scale, p.crop_ratio, interpolation=transforms.InterpolationMode.BICUBIC
            ),
            transforms.RandomHorizontalFlip(p.flip_probability),
            transforms.RandomApply([jitter], p.color_jitter_probability),
            transforms.RandomGrayscale(p.color_dropping_probability),
            transforms.RandomApply([blur], p.gaussian_blur_probability[view]),
            transforms.RandomSolarize(p.solarization_threshold, p.solarization_probability[view]),
            transforms.ToTensor(),
            transforms.Normalize(p.mean, p.std),
        ]
    )


class JpegBytes(ImageDataset):
    """Encoded pictures, decoded as the package decodes every file."""

    def __init__(self, pictures: list[bytes]) -> None:
        description = DatasetDescription("JPEGs", "memory", "train", len(pictures), 0, "", "")
        super().__init__([-1] * len(pictures), (), description)
        self.pictures = pictures

    def name(self, index: int) -> str:
        return str(index)

    def load_image(self, index: int) -> Image.Image:
        return decode_rgb(self.pictures[index])

    def load_pixels(self, index: int) -> Any:
        return decode_pixels(self.pictures[index])


def calls_of(pictures: list[bytes]) -> dict[str, Callable[[], object]]:
    """The variants; every call walks on to draws of its own, so that a round is not one lucky crop."""
    paper = TwoViewParameters()
    blurs = (
        PillowBlur(paper.blur_sigma),
        transforms.GaussianBlur(paper.blur_kernel_size(IMAGE_SIZE), paper.blur_sigma),
    )
    compositions = [[usual_view(paper, view, blur) for view in (0, 1)] for blur in blurs]
    images = JpegBytes(pictures)
    collate = TwoViewCollator()
    epochs = {name: iter(range(10**9)) for name in ("pillow", "worker", "device")}

    def usual(first: transforms.Compose, second: transforms.Compose) -> object:
        pairs = []
        for data in pictures:
            image = Image.open(io.BytesIO(data)).convert("RGB")
            pairs.append((first(image), second(image)))
        return [torch.stack(views) for views in zip(*pairs, strict=True)]

    oracle = PillowTwoViewTransform(IMAGE_SIZE)

    def by_pillow(pixels: Any, key: int) -> tuple[torch.Tensor, torch.Tensor]:
        return oracle(Image.fromarray(pixels), key)

    def ours(place: str) -> dict[str, torch.Tensor]:
        epoch = next(epochs[place])
        transform = by_pillow if place == "pillow" else make_two_view_transform(place, IMAGE_SIZE)
        dataset = TwoViewDataset(images, transform)
        return collate([dataset[epoch, index] for index in range(len(pictures))])

    half = SplitTwoViewTransform(IMAGE_SIZE).device_half()

    return {
        "usual pipeline": lambda: usual(*compositions[0]),
        "usual pipeline, torchvision's blur": lambda: usual(*compositions[1]),
        "the tests' oracle (Pillow)": lambda: ours("pillow"),
        "worker (OpenCV)": lambda: ours("worker"),
        "device, worker's half": lambda: ours("device"),
        "device, both halves on this CPU": lambda: finish_views(half, ours("device")),
        "decode alone": lambda: [decode_pixels(data) for data in pictures],
    }


def loaded_per_second(
    pictures: list[bytes], place: str, workers: int, images: int = 512, image_size: int = 224
) -> float:
    """Images a second, wall clock, that a loader brings to the process that trains."""
    dataset = TwoViewDataset(
        JpegBytes(pictures * (images // len(pictures))), make_two_view_transform(place, image_size)
    )
    sampler, batch_size = EpochSampler(len(dataset), seed=0), 32
    loader = DataLoader(
        dataset,
        batch_size,
        sampler=sampler,
        num_workers=workers,
        collate_fn=TwoViewCollator(),
        persistent_workers=True,
    )
    for _ in loader:  # starts the workers
        pass
    start = time.perf_counter()
    count = sum(batch["bad_index"].numel() for batch in loader)
    return count / (time.perf_counter() - start)


def on_cpu(pictures: list[bytes], rounds: int) -> tuple[list[Finding], list[dict[str, Any]]]:
    """One thread, the variants in turns."""
    seconds = interleaved_seconds(calls_of(pictures), rounds)
    milliseconds = {name: 1e3 * statistics.median(times) / len(pictures) for name, times in seconds.items()}
    times = {name: median_ratio(seconds["usual pipeline"], each) for name, each in seconds.items()}
    half = "device, worker's half"
    findings = [
        Finding(
            "two views, the worker's half: images per core-second over the usual pipeline's",
            times[half],
            "×",
            "≥ 5",
            f"{times['decode alone']:.1f} (decoding alone)",
        ),
        Finding("two views, whole on a CPU: the same", times["worker (OpenCV)"], "×", "≥ 2"),
        Finding(
            "two views, the worker's half over the usual pipeline with torchvision's blur",
            median_ratio(seconds["usual pipeline, torchvision's blur"], seconds[half]),
            "×",
        ),
        Finding(
            "two views, the worker's half: images per core-second",
            1e3 / milliseconds[half],
            "images/s",
            floor=f"{1e3 / milliseconds['decode alone']:.0f} (decoding alone)",
        ),
    ]
    rows = [
        {
            "variant": name,
            "median_ms_per_image": round(milliseconds[name], 3),
            "images_per_core_second": round(1e3 / milliseconds[name], 1),
            "times_the_usual_pipeline": round(times[name], 2),
        }
        for name in seconds
    ]
    return findings, rows


def on_device(
    pictures: list[bytes],
    rounds: int,
    device: str = "cuda",
    batch_size: int = 512,
    image_size: int = IMAGE_SIZE,
    backend: str = "inductor",
) -> tuple[list[Finding], list[dict[str, Any]]]:
    """The batched half on the device, and what the loader processes of all cores bring to it."""
    transform = SplitTwoViewTransform(image_size)
    images = JpegBytes(pictures * (batch_size // len(pictures)))
    dataset = TwoViewDataset(images, transform)
    batch = TwoViewCollator()([dataset[0, index] for index in range(len(dataset))])
    if device == "cuda":
        batch = {name: values.pin_memory() for name, values in batch.items()}
    there = {name: values.to(device) for name, values in batch.items()}
    eager, compiled = transform.device_half().to(device), transform.device_half().to(device)
    compiled.compile(backend=backend)
    calls: dict[str, Callable[[], object]] = {
        "batched half, eager": lambda: finish_views(eager, there),
        "batched half, compiled": lambda: finish_views(compiled, there),
        "copy to the device": lambda: [values.to(device, non_blocking=True, copy=True) for values in batch.values()],
    }
    seconds = interleaved_seconds(calls, rounds, device, warmup=3)
    rows: list[dict[str, Any]] = [
        {"variant": name, "median_ms_per_batch": round(1e3 * statistics.median(times), 3), "batch": batch_size}
        for name, times in seconds.items()
    ]
    workers = (os.cpu_count() or 1) if device == "cuda" else 1
    findings = [
        Finding(f"two views of {batch_size} images, {row['variant']}", row["median_ms_per_batch"], "ms")
        for row in rows
    ]
    if device == "cuda":
        for name in ("batched half, eager", "batched half, compiled"):
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            calls[name]()
            peak = (torch.cuda.max_memory_allocated() - before) / 2**20
            findings.append(Finding(f"two views, {name}: peak memory", peak, "MiB", "≤ 1024"))
    findings.append(
        Finding(
            f"two views, the loader with {workers} workers",
            loaded_per_second(pictures, "device", workers, 16 * batch_size, image_size),
            "images/s",
            "≥ 3800",
        )
    )
    return findings, rows


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--images", type=int, default=16, help="Different pictures.")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--output", type=Path, help="Default: two_views_<device>.json of the results.")
    options = parser.parse_args()
    if options.device == "cpu":
        torch.set_num_threads(1)
    torch.manual_seed(0)
    pictures = [photograph_bytes(seed) for seed in range(options.images)]
    findings, rows = (on_cpu if options.device == "cpu" else on_device)(pictures, options.rounds)
    settings = {
        "images": f"{len(pictures)} JPEGs of {WIDTH} x {HEIGHT}, quality 90, 1/f noise",
        "mean_bytes": round(statistics.mean(len(data) for data in pictures)),
        "image_size": IMAGE_SIZE,
        "rounds": options.rounds,
    }
    output = options.output or RESULTS / f"two_views_{options.device}.json"
    write_report(output, "two views of a JPEG", settings, rows, findings, options.device)


if __name__ == "__main__":
    main()
