import io

import numpy as np
import pytest
from PIL import Image

from synco_hub.data.davis import PALETTE
from synco_hub.data.masked_images import MaskedImages, read_class_mask

NUMBERS = np.array([[0, 1, 2], [20, 255, 3]], dtype=np.uint8)


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def _images(mask: Image.Image, names=("a", "b", "c"), size=(3, 2), **more) -> MaskedImages:
    pair = (_png(Image.new("RGB", size)), _png(mask))
    return MaskedImages("things", "train", tuple(names), ("one",), (lambda: pair,), **more)


def _indexed(numbers: np.ndarray) -> Image.Image:
    image = Image.fromarray(numbers).convert("P")
    image.putdata(numbers.flatten().tolist())
    image.putpalette([channel for colour in PALETTE for channel in colour])
    return image


@pytest.mark.parametrize(
    "mask",
    [
        Image.fromarray(NUMBERS),
        _indexed(NUMBERS),
        Image.fromarray(NUMBERS.astype(np.uint16)),
        Image.fromarray(np.stack([NUMBERS] * 3, axis=-1)),
        Image.fromarray(np.stack([NUMBERS, np.full_like(NUMBERS, 255)], axis=-1), "LA"),
    ],
    ids=["grey", "indexed", "16 bits", "grey as RGB", "grey with alpha"],
)
def test_a_mask_is_numbers_however_it_is_stored(mask):
    assert np.array_equal(read_class_mask(_png(mask), "one"), NUMBERS)


def test_a_mask_of_one_bit_is_zero_and_one():
    bits = Image.fromarray(np.array([[True, False]]))
    assert read_class_mask(_png(bits), "one").tolist() == [[1, 0]]


def test_colours_are_read_where_they_are_vocs_and_refused_elsewhere():
    colours = np.array([PALETTE[number] if number != 255 else (224, 224, 192) for number in NUMBERS.flatten()])
    drawn = _png(Image.fromarray(colours.reshape(2, 3, 3).astype(np.uint8)))
    assert np.array_equal(read_class_mask(drawn, "one", drawn=True), NUMBERS)
    with pytest.raises(
        ValueError, match=r"mask of one holds RGB colours without a palette, .*: save it as an indexed"
    ):
        read_class_mask(drawn, "one")
    other = _png(Image.fromarray(np.array([[[1, 2, 3]]], dtype=np.uint8)))
    with pytest.raises(ValueError, match=r"the colour \(1, 2, 3\), which is no class of VOC"):
        read_class_mask(other, "one", drawn=True)


def test_values_beyond_the_classes_and_other_sizes_are_named():
    with pytest.raises(ValueError, match="mask of one has the value 20, but there are 3 classes, numbered from 0"):
        _images(Image.fromarray(NUMBERS)).read(0)
    with pytest.raises(ValueError, match="mask of one is 3x2, its image 4x4: both need one size"):
        _images(Image.fromarray(NUMBERS), size=(4, 4)).read(0)
    with pytest.raises(ValueError, match="values from 0 to 300"):
        read_class_mask(_png(Image.fromarray(np.array([[0, 300]], dtype=np.uint16))), "one")
    stream = io.BytesIO()
    Image.fromarray(NUMBERS).save(stream, "JPEG")
    with pytest.raises(ValueError, match=r"mask of one is a JPEG, .*: save masks as PNG"):
        read_class_mask(stream.getvalue(), "one")
    with pytest.raises(ValueError, match="mask of one cannot be read"):
        read_class_mask(b"no picture", "one")


def test_zero_can_stand_for_no_class():
    images = _images(Image.fromarray(np.array([[0, 1, 3], [255, 2, 0]], dtype=np.uint8)), zero_is_void=True)
    assert images.read(0)[1].tolist() == [[255, 0, 2], [255, 1, 255]]
    assert images.list_values() == {0, 1, 2}
    with pytest.raises(ValueError, match="has the value 9, but there are 3 classes, numbered from 1"):
        _images(Image.fromarray(np.full((2, 3), 9, dtype=np.uint8)), zero_is_void=True).read(0)


def test_the_fingerprint_changes_with_a_pixel():
    one, other = (_images(Image.fromarray(NUMBERS + change)) for change in (0, np.uint8(0)))
    changed = NUMBERS.copy()
    changed[0, 0] = 1
    assert one.fingerprint() == other.fingerprint() != _images(Image.fromarray(changed)).fingerprint()
