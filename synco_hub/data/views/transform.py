"""Where views are distorted: in the worker processes, or on the training device."""

from collections.abc import Callable

from synco_hub.data.views.device_views import SplitTwoViewTransform
from synco_hub.data.views.parameters import TwoViewParameters
from synco_hub.data.views.worker_views import TwoViewTransform

AUTO = "auto"
AnyTwoViewTransform = TwoViewTransform | SplitTwoViewTransform
TRANSFORMS: dict[str, Callable[[int, TwoViewParameters | None], AnyTwoViewTransform]] = {
    "worker": TwoViewTransform,
    "device": SplitTwoViewTransform,
}


def resolve_place(augment_on: str, device_type: str) -> str:
    """Where to distort."""
    if augment_on != AUTO and augment_on not in TRANSFORMS:
        raise ValueError(f"--augment-on {augment_on}: views are made on one of {', '.join([AUTO, *TRANSFORMS])}.")
    if augment_on == AUTO:
        return "worker" if device_type == "cpu" else "device"
    return augment_on


def place_of(transform: object) -> str | None:
    """The key of `TRANSFORMS` whose transform this is; None if it is of somebody else."""
    return next((name for name, kind in TRANSFORMS.items() if type(transform) is kind), None)


def make_two_view_transform(
    augment_on: str, image_size: int, parameters: TwoViewParameters | None = None
) -> AnyTwoViewTransform:
    """The transform for a place.

    Args:
        augment_on: A key of `TRANSFORMS`, see `resolve_place`.
        image_size: Height and width of a view in pixels.
        parameters: Table 11; None takes the paper's numbers.
    """
    if augment_on not in TRANSFORMS:
        raise ValueError(f"augment_on {augment_on!r} is no place: give one of {', '.join(TRANSFORMS)}.")
    return TRANSFORMS[augment_on](image_size, parameters)
