import pytest
from PIL import Image

from synco_hub.data.voc_boxes import load_voc_boxes, read_boxes

ANNOTATION = """<annotation><folder>VOC2007</folder><size><width>20</width><height>10</height></size>
<object><name>dog</name><difficult>1</difficult>
  <bndbox><xmin>1</xmin><ymin>1</ymin><xmax>20</xmax><ymax>10</ymax></bndbox></object>
<object><name>person</name>
  <bndbox><ymax>6</ymax><xmax>8</xmax><xmin>3.5</xmin><ymin>4</ymin></bndbox>
  <part><name>head</name><bndbox><xmin>4</xmin><ymin>4</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></part></object>
</annotation>"""


def voc(root):
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    for name in ("000005", "000007"):
        Image.new("RGB", (20, 10)).save(root / "JPEGImages" / f"{name}.jpg")
        (root / "Annotations" / f"{name}.xml").write_text(ANNOTATION)
    (root / "ImageSets" / "Main" / "trainval.txt").write_text("000005\n000007\n")
    return root


@pytest.mark.parametrize("below", [".", "VOC2007", "VOCdevkit/VOC2007"])
def test_boxes_count_from_zero_and_exclude_their_end(tmp_path, below):
    voc(tmp_path / below)
    images = load_voc_boxes(tmp_path)
    assert [image.name for image in images] == ["000005", "000007"]
    # The first box covers the whole image; parts have no box of their own.
    assert images[0].boxes.tolist() == [[0, 0, 20, 10], [2.5, 3, 8, 6]]


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="Annotations folder"):
        load_voc_boxes(tmp_path)
    root = voc(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"test\.txt"):
        load_voc_boxes(root, "test")
    (root / "JPEGImages" / "000007.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"000007\.jpg"):
        load_voc_boxes(root)
    (root / "Annotations" / "000005.xml").unlink()
    with pytest.raises(FileNotFoundError, match=r"000005\.xml"):
        load_voc_boxes(root)
    (root / "ImageSets" / "Main" / "trainval.txt").write_text("../secret\n")
    with pytest.raises(ValueError, match="no name of an image"):
        load_voc_boxes(root)


@pytest.mark.parametrize(
    "text",
    [
        "<annotation><object>",
        ANNOTATION.replace("<xmin>1<", "<xmin>left<"),
        ANNOTATION.replace("<xmin>1<", "<xmin>30<"),
        ANNOTATION.replace("<xmin>1</xmin>", ""),
        '<!DOCTYPE a [<!ENTITY b "c">]>' + ANNOTATION,
    ],
)
def test_damaged_annotations_are_refused(tmp_path, text):
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(ValueError, match="original file"):
        read_boxes(tmp_path / "a.xml")


def test_an_image_without_objects_has_no_boxes(tmp_path):
    (tmp_path / "a.xml").write_text("<annotation></annotation>")
    assert read_boxes(tmp_path / "a.xml").shape == (0, 4)
