"""The numbers of Table 11: how two views of an image are drawn, and small ones beside them where they are wanted."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TwoViewParameters:
    """Strengths and probabilities of the augmentations T_q (view 1) and T_k (view 2).

    A pair (view 1, view 2) is given where the two differ: blur and solarization, and nothing else.

    Attributes:
        random_crop_probability: Otherwise the whole image is resized.
        crop_scale: Area of the crop as a share of the image's.
        crop_ratio: Width over height of the crop, drawn log-uniformly.
        flip_probability: Horizontal mirroring.
        color_jitter_probability: Brightness, contrast, saturation and hue together, in random order.
        brightness: Factor drawn from [1 - brightness, 1 + brightness].
        contrast: Factor drawn from [1 - contrast, 1 + contrast].
        saturation: Factor drawn from [1 - saturation, 1 + saturation].
        hue: Shift drawn from [-hue, hue], in turns of the colour circle.
        color_dropping_probability: Conversion to gray.
        gaussian_blur_probability: Pair.
        blur_sigma: Standard deviation in pixels, drawn uniformly.
        solarization_probability: Pair.
        solarization_threshold: Channel values from here on are inverted, in [0, 255].
        mean: Per channel, for channel values in [0, 1].
        std: Per channel, for channel values in [0, 1].
        local_crops: Small views beside the two, of small parts of the image; distorted as view 1 and view 2 in turns.
        local_size: Their height and width in pixels.
        local_scale: Area of such a crop as a share of the image's.

    Raises:
        ValueError: If a probability, range or strength is impossible.

    Source: Table 11 of the paper, which has no small views; crop scale, ratio, blur widths, threshold and the order of
        the steps from BYOL (Grill et al., 2020, appendix B), which section 7.3 of the paper refers to; size and scale
        of small views from DINO (Caron et al., 2021, appendix).
    """

    random_crop_probability: float = 1.0
    crop_scale: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip_probability: float = 0.5
    color_jitter_probability: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    color_dropping_probability: float = 0.2
    gaussian_blur_probability: tuple[float, float] = (1.0, 0.1)
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarization_probability: tuple[float, float] = (0.0, 0.2)
    solarization_threshold: int = 128
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    local_crops: int = 0
    local_size: int = 96
    local_scale: tuple[float, float] = (0.05, 0.25)

    def __post_init__(self) -> None:
        """Refuses what no image can be drawn with."""
        for name, value in vars(self).items():
            for probability in (value if isinstance(value, tuple) else (value,)) if "probability" in name else ():
                if not 0 <= probability <= 1:
                    raise ValueError(f"{name} {value}: a probability lies in [0, 1]; give for example 0.5.")
        for name in ("crop_scale", "crop_ratio", "blur_sigma", "local_scale"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} {(low, high)}: give two positive numbers, the smaller one first.")
        for name in ("crop_scale", "local_scale"):
            if getattr(self, name)[1] > 1:
                raise ValueError(f"{name} {getattr(self, name)}: a crop cannot be larger than its image; end at 1.0.")
        if self.local_crops < 0 or self.local_size < 1:
            raise ValueError(
                f"local_crops {self.local_crops} of local_size {self.local_size}: give 0 for none, or a number of "
                "small views and their side in pixels."
            )
        for name in ("brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"{name} {getattr(self, name)}: a strength lies in [0, 1]; the paper uses 0.2 to 0.4."
                )
        if not 0 <= self.hue <= 0.5:
            raise ValueError(f"hue {self.hue}: half the colour circle is 0.5; give a value in [0, 0.5].")
        if not 0 <= self.solarization_threshold <= 256:
            raise ValueError(f"solarization_threshold {self.solarization_threshold}: channel values are 0 to 255.")
        if min(self.std) <= 0:
            raise ValueError(f"std {self.std}: the image is divided by it, so it must be positive.")

    def blur_kernel_size(self, image_size: int) -> int:
        """Side of the blur kernel in pixels: a tenth of the image, odd, at least 3; 23 at 224.

        Source: BYOL's published augmentation, 2 · int(size / 10 / 2) + 1.
        """
        return max(3, 2 * int(image_size / 10 / 2) + 1)
