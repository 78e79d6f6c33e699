"""Each picture is looked at once by each model, whatever its file is called, and memory has a bound."""

import threading

import pytest
import torch
from PIL import Image

from space_app.looks import SHOWN_SIDE, Looks
from synco_hub.models import image_processor


class Models:
    """Stands for the model cache: the name is the model."""

    def __init__(self):
        self.processor = image_processor(32)

    def get(self, name):
        return name, self.processor


def brightness(model, prepared):
    return model, float(prepared.pixel_values.mean())


def darkness(model, prepared):
    return model, -float(prepared.pixel_values.mean())


@pytest.fixture
def picture(tmp_path):
    def paint(colour, name="picture.png"):
        path = tmp_path / name
        Image.new("RGB", (60, 40), colour).save(path)
        return str(path)

    return paint


def test_a_result_is_computed_once_for_what_it_depends_on(picture):
    looks, red = Looks(Models()), picture("red")
    prepared, (model, value) = looks.result(brightness, red, "a")
    assert model == "a"
    expected = image_processor(32)(Image.new("RGB", (60, 40), "red"), return_tensors="pt").pixel_values
    assert value == pytest.approx(float(expected.mean()))
    assert torch.equal(prepared.pixel_values, expected)
    assert prepared.shown.shape == (SHOWN_SIDE, SHOWN_SIDE, 3)
    # The same bytes under another name are the same picture.
    assert looks.result(brightness, picture("red", "copy.png"), "a")[0] is prepared
    assert looks.computed == 1
    for number, other in enumerate(
        [(brightness, red, "b"), (darkness, red, "a"), (brightness, red, "a", 2), (brightness, red, "a", 1, ("x",))], 2
    ):
        looks.result(*other)
        assert looks.computed == number
    # New bytes under the old name are another picture.
    assert looks.result(brightness, picture("lime"), "a")[1][1] != value


def test_the_least_recently_used_is_forgotten(picture):
    looks = Looks(Models(), keep=2)
    paths = [picture(colour, f"{colour}.png") for colour in ("red", "lime", "blue")]
    looks.result(brightness, paths[0], "a")
    looks.result(brightness, paths[1], "a")
    looks.result(brightness, paths[0], "a")
    looks.result(brightness, paths[2], "a")
    assert (len(looks), looks.computed) == (2, 3)
    looks.result(brightness, paths[0], "a")
    assert looks.computed == 3
    looks.result(brightness, paths[1], "a")
    assert looks.computed == 4


def test_a_failure_is_not_remembered_and_threads_do_not_mix(picture):
    looks = Looks(Models(), keep=4)
    failing = [True]

    def moody(model, prepared):
        if failing[0]:
            raise ValueError("not today")
        return "well"

    with pytest.raises(ValueError, match="not today"):
        looks.result(moody, picture("red"), "a")
    failing[0] = False
    assert looks.result(moody, picture("red"), "a")[1] == "well"
    paths = [picture((40 * number, 0, 0), f"{number}.png") for number in range(6)]
    expected = [Looks(Models()).result(brightness, path, "a")[1] for path in paths]
    wrong = []

    def visit(number):
        for _ in range(10):
            if looks.result(brightness, paths[number], "a")[1] != expected[number]:
                wrong.append(number)

    threads = [threading.Thread(target=visit, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(looks) <= 4
