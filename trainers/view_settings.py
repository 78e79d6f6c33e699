"""The flags of the two views of pretraining, for images that are not photographs of 224 pixels.

Nothing here imports torch, so that `--help` answers at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from synco_hub.settings import setting


@dataclass(frozen=True)
class ViewArguments:
    """What of Table 11 a run does otherwise, see `synco_hub.data.TwoViewParameters`; None is the paper's number.

    Table 11 is for photographs of 224 pixels. Where images are small, or brightness tells classes apart, milder
    views keep what matters: the recipe fashion-mnist shows how far.
    """

    _argument_group_name: ClassVar[str] = "views (Table 11)"

    crop_scale: list[float] | None = setting(None, "Smallest and largest share of an image that a crop has; 0.08 1.")
    flip_probability: float | None = setting(None, "Horizontal mirroring; 0.5.")
    color_jitter_probability: float | None = setting(None, "Brightness, contrast, saturation and hue; 0.8.")
    brightness: float | None = setting(None, "Strength of its change; 0.4.")
    contrast: float | None = setting(None, "Strength of its change; 0.4.")
    saturation: float | None = setting(None, "Strength of its change; 0.2.")
    hue: float | None = setting(None, "Strength of its change; 0.1.")
    color_dropping_probability: float | None = setting(None, "Conversion to gray; 0.2.")
    gaussian_blur_probability: list[float] | None = setting(None, "Of view 1 and view 2; 1 0.1.")
    blur_sigma: list[float] | None = setting(None, "Smallest and largest deviation of the blur in pixels; 0.1 2.")
    solarization_probability: list[float] | None = setting(None, "Of view 1 and view 2; 0 0.2.")
    local_crops: int | None = setting(
        None,
        "Small views beside the two, which the online network alone sees and compares with both keys (multi-crop); 0. "
        "Off by default: in the time of two views alone it was not shown to pay.",
    )
    local_size: int | None = setting(None, "Side of a small view in pixels; 96.")
    local_scale: list[float] | None = setting(
        None, "Smallest and largest share of an image that a small view has; 0.05 0.25. Begin --crop-scale at its end."
    )

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, list) and len(value) != 2:
                raise ValueError(f"--{name.replace('_', '-')} {value}: give two numbers, as in Table 11.")
        for name in ("local_size", "local_scale"):
            if getattr(self, name) is not None and self.local_crops is None:
                raise ValueError(
                    f"--{name.replace('_', '-')} is for small views: give --local-crops 4 or the like, or none."
                )

    def changed(self) -> dict[str, Any]:
        """What was given, as `TwoViewParameters` takes it."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
