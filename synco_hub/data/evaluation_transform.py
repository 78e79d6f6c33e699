"""One undistorted view of an image: how every evaluation of frozen features sees it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torchvision.transforms.v2.functional as transforms
from PIL import Image
from torchvision.transforms.v2 import InterpolationMode

from synco_hub.data.views.parameters import TwoViewParameters

RESIZE_OVER_CROP = 256 / 224
_PILLOW_RESAMPLING = {
    0: InterpolationMode.NEAREST,
    1: InterpolationMode.LANCZOS,
    2: InterpolationMode.BILINEAR,
    3: InterpolationMode.BICUBIC,
    4: InterpolationMode.BOX,
    5: InterpolationMode.HAMMING,
}
# Largest difference in normalised units that rounding makes; one grey level is more than ten times as much.
_ROUNDING = 1e-3
# Width and height of the pictures that a processor is tried on, by its output: landscape, portrait, small, odd.
_TRIED_SIZES = ((1.37, 1.0), (0.9, 1.63), (0.61, 0.47), (2.21, 1.19), (3.7, 0.6))
_TRIED_COLOURS = ((0, 0, 0), (255, 255, 255), (51, 102, 204))


class EvaluationTransform:
    """Resize, centre crop, scaling to [0, 1], normalisation.

    The arithmetic is that of the torchvision backend of transformers' `ViTImageProcessor`: an antialiased resize of
    8-bit values and the same place of the crop. Its slower Pillow backend rounds the resize differently, by one grey
    level in a few pixels.

    Args:
        image_size: Height and width of the crop in pixels.
        resize_size: Shorter side after the resize, or exact height and width; None takes 256 / 224 of the image size
            for the shorter side.
        interpolation: How to resize.
        mean: Per channel, for values in [0, 1].
        std: Per channel, for values in [0, 1].

    Raises:
        ValueError: If a size is not positive or the crop is larger than the resized image.
    """

    def __init__(
        self,
        image_size: int,
        resize_size: int | tuple[int, int] | None = None,
        interpolation: InterpolationMode = InterpolationMode.BICUBIC,
        mean: tuple[float, ...] = TwoViewParameters.mean,
        std: tuple[float, ...] = TwoViewParameters.std,
    ) -> None:
        resize_size = round(image_size * RESIZE_OVER_CROP) if resize_size is None else resize_size
        self.resize_size = [resize_size] if isinstance(resize_size, int) else list(resize_size)
        if not 1 <= image_size <= min(self.resize_size):
            raise ValueError(
                f"image size {image_size} after a resize to {resize_size}: the crop needs at least one pixel and no "
                "more than the resized image has; give the usual 224 and 256."
            )
        self.image_size = image_size
        self.interpolation = interpolation
        self._colours: tuple[tuple[float, ...], tuple[float, ...]] | None = (tuple(mean), tuple(std))

    @property
    def mean(self) -> tuple[float, ...]:
        """Of each channel, for values in [0, 1]."""
        return self._known_colours()[0]

    @property
    def std(self) -> tuple[float, ...]:
        """Of each channel, for values in [0, 1]."""
        return self._known_colours()[1]

    def _known_colours(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        if self._colours is None:
            raise ValueError(
                f"{self!r}: it changes colours otherwise than by a mean and a standard deviation of each channel, "
                "which this needs: knn, out-of-distribution and classification take it; else use another model"
            )
        return self._colours

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a view."""
        return len(self.mean), self.image_size, self.image_size

    @classmethod
    def from_image_processor(cls, processor: Any) -> EvaluationTransform:
        """Takes a model's image processor.

        Args:
            processor: Any image processor of transformers that makes ``pixel_values`` of one size.

        Returns:
            The same preprocessing, image by image, for worker processes: by the numbers of the processor where they
            say all that it does, which pictures tell, and else by the processor itself.

        Raises:
            ValueError: If the processor makes views of several sizes, or none.
        """
        itself = ProcessorTransform(processor)
        translated = read_numbers(processor)
        return itself if translated is None or not itself.equals(translated) else translated

    def without_normalisation(self) -> EvaluationTransform:
        """The same resize and crop, values left in [0, 1]."""
        size, channels = self.resize_size, len(self.mean)
        return EvaluationTransform(
            self.image_size,
            size[0] if len(size) == 1 else (size[0], size[1]),
            self.interpolation,
            (0.0,) * channels,
            (1.0,) * channels,
        )

    def facts(self) -> dict[str, Any]:
        """What a result says about it, JSON values."""
        return {
            "steps": repr(self),
            "resize_size": self.resize_size,
            "image_size": self.image_size,
            "interpolation": self.interpolation.value,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    def __call__(
        self, image: Image.Image, after_crop: Callable[[torch.Tensor], torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Makes the view.

        Args:
            image: RGB image of any size.
            after_crop: What is done to the crop, values in [0, 1], before the normalisation.

        Returns:
            Shape: (channels, image_size, image_size), float32; one channel, of a grey image, where there is one mean.
        """
        pixels = self._resized(image if len(self.mean) > 1 else image.convert("L"))
        # Rounded down as transformers does; torchvision's own centre crop rounds half a pixel to the even side.
        top, left = ((side - self.image_size) // 2 for side in pixels.shape[-2:])
        pixels = transforms.crop(pixels, top, left, self.image_size, self.image_size)
        values = transforms.to_dtype(pixels, torch.float32, scale=True)
        if after_crop is not None:
            values = after_crop(values)
        view: torch.Tensor = transforms.normalize(values, list(self.mean), list(self.std))
        return view

    def _resized(self, image: Image.Image) -> torch.Tensor:
        """What is cropped. Shape: (channels, height, width), 8-bit."""
        return transforms.resize(transforms.pil_to_tensor(image), self.resize_size, self.interpolation, antialias=True)

    def __repr__(self) -> str:
        resized = "x".join(map(str, self.resize_size))
        return f"resize {resized} {self.interpolation.value}, centre crop {self.image_size}"


class ProcessorTransform(EvaluationTransform):
    """A model's image processor itself, where its numbers do not say all that it does.

    Mean and standard deviation are those of the whole processor, told by pictures of one colour, so that pixels in
    [0, 1] can be had back: a processor may rescale to other values first, or normalise twice.

    Args:
        processor: An image processor of transformers.

    Raises:
        ValueError: If it makes views of several sizes, or none.
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self._normalises = True
        shapes = {
            tuple(make_view(processor, Image.new("RGB", size)).shape) for size in ((97, 64), (64, 97), (300, 300))
        }
        if len(shapes) > 1:
            raise ValueError(
                f"{type(processor).__name__} makes views of the shapes {sorted(shapes)} from pictures of different "
                "sizes, where an evaluation needs one (channels, height, width): save the model's directory with a "
                "fixed size in its preprocessor_config.json (do_resize, size with height and width; or a shortest "
                "edge and do_center_crop), and give that directory"
            )
        self._shape: tuple[int, int, int] = next(iter(shapes))  # type: ignore[assignment]
        self.image_size = min(self._shape[1:])
        self.resize_size = list(self._shape[1:])
        self.interpolation = _interpolation(processor) or InterpolationMode.BICUBIC
        self._colours = tell_colours(processor)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a view."""
        return self._shape

    def equals(self, other: EvaluationTransform) -> bool:
        """Whether another transform makes the same views of drawn pictures, up to rounding."""
        if other.shape != self.shape:
            return False
        try:
            return all(
                float((other(each) - self(each)).abs().max()) <= _ROUNDING for each in draw_pictures(self.shape[1:])
            )
        except NotImplementedError:  # of a kind of resize that torchvision has not
            return False

    def without_normalisation(self) -> EvaluationTransform:
        """The same view, values in [0, 1]."""
        self._known_colours()
        changed = object.__new__(ProcessorTransform)
        vars(changed).update(vars(self), _normalises=False)
        return changed

    def facts(self) -> dict[str, Any]:
        """What a result says about it, JSON values."""
        colours = {} if self._colours is None else {"mean": list(self.mean), "std": list(self.std)}
        said = json.loads(json.dumps(self.processor.to_dict(), default=str))
        return {"steps": repr(self), "image_size": self.resize_size, "processor": said, **colours}

    def __call__(
        self, image: Image.Image, after_crop: Callable[[torch.Tensor], torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Makes the view: as the processor does, or with its pixels changed in between."""
        view = make_view(self.processor, image)
        if after_crop is None and self._normalises:
            return view
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in self._known_colours())
        pixels = (view * std + mean).clamp(0, 1)
        if after_crop is not None:
            pixels = after_crop(pixels)
        return (pixels - mean) / std if self._normalises else pixels

    def __repr__(self) -> str:
        height, width = self._shape[1:]
        timm = getattr(self.processor, "data_config", {})  # of the wrapper of timm's transforms
        words = "".join(f", {key} {timm[key]}" for key in ("interpolation", "crop_pct", "crop_mode") if key in timm)
        return f"{type(self.processor).__name__} itself, {height} x {width}{words}"


def make_view(processor: Any, image: Image.Image, **changes: Any) -> torch.Tensor:
    """What an image processor makes of an RGB image. Shape: (channels, height, width)."""
    try:
        made = processor(image.convert("L") if _is_grey(processor) else image, return_tensors="pt", **changes)
    except TypeError as error:
        raise ValueError(
            f"{type(processor).__name__} does not make a view of an image alone ({error}): use a model whose image "
            "processor does"
        ) from error
    pixel_values = made.get("pixel_values") if isinstance(made, Mapping) else None
    if not isinstance(pixel_values, torch.Tensor) or len(pixel_values) != 1:
        raise ValueError(
            f"{type(processor).__name__} does not give one view of an image as pixel_values: use a model whose image "
            "processor does"
        )
    if pixel_values.ndim != 4:
        raise ValueError(
            f"{type(processor).__name__} gives values of shape {tuple(pixel_values.shape[1:])} an image, no "
            "(channels, height, width): a network that is given patches of any number, with a mask, is not measured "
            "or drawn; take one of a fixed resolution (siglip2-base-patch16-224 beside siglip2-base-patch16-naflex)"
        )
    return pixel_values[0].float()


def _is_grey(processor: Any) -> bool:
    """One mean stands for a network of one channel, which is given grey images."""
    means = getattr(processor, "image_mean", getattr(processor, "data_config", {}).get("mean"))
    return isinstance(means, (list, tuple)) and len(means) == 1


def tell_colours(processor: Any) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and standard deviation of all that a processor does to colours in [0, 1]; None where that is another thing.

    Pictures of one colour tell: a processor may rescale to other values first, normalise twice or exchange channels.
    """
    views = [make_view(processor, Image.new("RGB", (64, 64), colour)) for colour in _TRIED_COLOURS]
    black, white, coloured = (view.double().mean(dim=(1, 2)) for view in views)
    even = all(float((view - view[:, :1, :1]).abs().max()) <= _ROUNDING for view in views)
    if not even or not bool((white > black).all()) or _is_grey(processor) != (len(black) == 1):
        return None
    mean, std = -black / (white - black), 1 / (white - black)
    if len(mean) > 1:
        due = (torch.tensor(_TRIED_COLOURS[2]) / 255 - mean) / std
        if len(mean) != 3 or float((coloured - due).abs().max()) > _ROUNDING:
            return None
    told = mean.tolist(), std.tolist()
    said = getattr(processor, "image_mean", None), getattr(processor, "image_std", None)
    # The processor's own numbers are the same without the rounding of 32 bits.
    same = all(each is not None and np.allclose(each, one, atol=1e-5) for each, one in zip(said, told, strict=True))
    mean_of, std_of = (tuple(map(float, values)) for values in (said if same else told))  # type: ignore[arg-type]
    return mean_of, std_of


def draw_pictures(size: tuple[int, int]) -> Iterator[Image.Image]:
    """Pictures with smooth and sharp parts, of several sizes around a height and width, the same everywhere."""
    generator = np.random.default_rng(20240521)
    for across, down in _TRIED_SIZES:
        width, height = max(round(across * size[1]), 8), max(round(down * size[0]), 8)
        coarse = Image.fromarray(generator.integers(0, 256, (5, 7, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
        grain = generator.integers(-60, 61, (height, width, 3), dtype=np.int16)
        stripes = 90 * (((np.arange(width) + np.arange(height)[:, None]) // 5) % 2)[..., None]
        yield Image.fromarray((smooth + grain + stripes - 45).clip(0, 255).astype(np.uint8))


def read_numbers(processor: Any) -> EvaluationTransform | None:
    """The numbers that most processors have; whether they say everything is seen by pictures."""
    size = getattr(processor, "size", None)
    edge, exact = _side(size, "shortest_edge"), _height_and_width(size)
    mean, std = getattr(processor, "image_mean", None), getattr(processor, "image_std", None)
    crops = getattr(processor, "do_center_crop", False)
    crop = _height_and_width(getattr(processor, "crop_size", None)) if crops else exact
    interpolation = _interpolation(processor)
    resized = edge if edge is not None else exact
    if _side(size, "longest_edge") is not None:  # which only pictures of an extreme shape show
        return None
    if None in (mean, std, crop, interpolation, resized) or crop is None or crop[0] != crop[1]:
        return None
    try:
        return EvaluationTransform(crop[0], resized, interpolation, tuple(mean), tuple(std))  # type: ignore[arg-type]
    except (ValueError, TypeError):  # a crop that is larger than the resized image is padded there
        return None


def _interpolation(processor: Any) -> InterpolationMode | None:
    resample = getattr(processor, "resample", None)
    return _PILLOW_RESAMPLING.get(int(resample)) if isinstance(resample, int) else None


def _side(size: Any, key: str) -> int | None:
    """Reads a side from a plain mapping or from transformers' SizeDict; None where it is not set."""
    value = size.get(key) if isinstance(size, Mapping) else getattr(size, key, None)
    return None if value is None else int(value)


def _height_and_width(size: Any) -> tuple[int, int] | None:
    height, width = _side(size, "height"), _side(size, "width")
    return None if height is None or width is None else (height, width)


class CentreCropTransform(EvaluationTransform):
    """Centre crop without a resize, scaling to [0, 1], normalisation.

    Source: evaluation of ImageNet-C, whose files are 224 x 224 crops: a second resize would show other pixels.
    """

    def __init__(self, like: EvaluationTransform) -> None:
        super().__init__(like.image_size, like.image_size, like.interpolation, like.mean, like.std)

    def _resized(self, image: Image.Image) -> torch.Tensor:
        """The image itself, unless it is smaller than the crop, or so much larger that the crop is a detail."""
        size = self.image_size
        if min(image.size) < size or min(image.size) > size * RESIZE_OVER_CROP:
            raise ValueError(
                f"an image of {image.width} x {image.height} pixels for a model of {size}: files of ImageNet-C are "
                "cropped already and are not resized; take a model of their size (224), or --on-the-fly"
            )
        return transforms.pil_to_tensor(image)

    def __repr__(self) -> str:
        return f"centre crop {self.image_size} only"
