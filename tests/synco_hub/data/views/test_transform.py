import pytest

from synco_hub.data.views.device_views import SplitTwoViewTransform
from synco_hub.data.views.parameters import TwoViewParameters
from synco_hub.data.views.transform import TRANSFORMS, make_two_view_transform, place_of, resolve_place
from synco_hub.data.views.worker_views import TwoViewTransform


def test_auto_is_the_device_where_it_is_an_accelerator() -> None:
    assert resolve_place("auto", "cuda") == "device"
    assert resolve_place("auto", "cpu") == "worker"


@pytest.mark.parametrize("place", TRANSFORMS)
def test_a_named_place_wins(place: str) -> None:
    assert resolve_place(place, "cuda") == resolve_place(place, "cpu") == place


def test_unknown_places_are_named() -> None:
    with pytest.raises(ValueError, match=r"--augment-on gpu.*auto, worker, device"):
        resolve_place("gpu", "cuda")
    with pytest.raises(ValueError, match=r"'auto'.*worker, device"):
        make_two_view_transform("auto", 32)


@pytest.mark.parametrize(
    ("place", "kind"),
    [("worker", TwoViewTransform), ("device", SplitTwoViewTransform)],
)
def test_the_transform_of_each_place(place: str, kind: type) -> None:
    parameters = TwoViewParameters(flip_probability=0.3)
    transform = make_two_view_transform(place, 48, parameters)
    assert type(transform) is kind
    assert place_of(transform) == place
    assert transform.image_size == 48
    assert transform.parameters is parameters
    assert make_two_view_transform(place, 48).parameters == TwoViewParameters()


def test_a_transform_of_somebody_else_has_no_place() -> None:
    assert place_of(None) is None
    assert place_of(lambda image, key: (image, image)) is None
