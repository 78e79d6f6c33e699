from typing import Any

import pytest

from synco_hub.data.hub_source import HubSource
from synco_hub.data.table_columns import image_column_of, label_column_of, with_encoded_images

datasets = pytest.importorskip("datasets")

IMAGE = datasets.Image()
CLASSES = datasets.ClassLabel(names=["cat", "dog"])
NUMBER = datasets.Value("int64")
FEW = HubSource("a/b")


def table(**features: Any) -> Any:
    columns: dict[str, list[Any]] = {name: [None] for name in features}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


@pytest.mark.parametrize(
    ("features", "image", "label"),
    [
        ({"picture": IMAGE, "kind": CLASSES}, "picture", "kind"),
        ({"image": IMAGE}, "image", None),
        ({"image": IMAGE, "label": NUMBER, "fine": CLASSES}, "image", "label"),
        ({"image": IMAGE, "labels": NUMBER}, "image", "labels"),
        ({"jpg": IMAGE, "cls": NUMBER}, "jpg", "cls"),
    ],
)
def test_columns_are_found_by_type_and_usual_name(features: Any, image: str, label: str | None) -> None:
    assert image_column_of(table(**features), FEW) == image
    assert label_column_of(table(**features), FEW) == label
    streamed = table(**features).to_iterable_dataset()
    assert (image_column_of(streamed, FEW), label_column_of(streamed, FEW)) == (image, label)


def test_what_is_named_wins_and_what_is_ambiguous_is_refused() -> None:
    both = table(a=IMAGE, b=IMAGE, fine=CLASSES, coarse=CLASSES)
    named = HubSource("a/b", image_column="b", label_column="coarse")
    assert (image_column_of(both, named), label_column_of(both, named)) == ("b", "coarse")
    with pytest.raises(ValueError, match=r"2 columns of images among a, b, fine, coarse.*--image-column"):
        image_column_of(both, FEW)
    with pytest.raises(ValueError, match=r"2 columns of classes \(fine, coarse\).*--label-column"):
        label_column_of(both, FEW)
    with pytest.raises(ValueError, match=r"no column 'c'; give --image-column one of a, b"):
        image_column_of(both, HubSource("a/b", image_column="c"))


def test_names_of_the_catalog_may_be_missing_in_another_copy() -> None:
    copy = HubSource("a/b", image_column="img", label_column="fine_label", optional_columns=True)
    assert image_column_of(table(image=IMAGE, label=CLASSES), copy) == "image"
    assert label_column_of(table(image=IMAGE, label=CLASSES), copy) == "label"


def test_images_stay_encoded_and_numbers_are_no_images() -> None:
    encoded = with_encoded_images(table(image=IMAGE), "image", FEW)
    assert encoded.features["image"].decode is False
    assert isinstance(
        with_encoded_images(table(jpg=datasets.Value("binary")), "jpg", FEW).features["jpg"], datasets.Image
    )
    with pytest.raises(ValueError, match="column 'image' holds int64, not images"):
        with_encoded_images(table(image=NUMBER), "image", FEW)
