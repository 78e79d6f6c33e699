import numpy as np
import pytest
from PIL import Image

from synco_hub.data.davis import PALETTE, load_davis, read_mask, write_mask


def davis(root, frames=4, size=(12, 8), objects=2):
    """Two videos of two objects each."""
    for video in ("one", "two"):
        images, masks = (root / kind / "480p" / video for kind in ("JPEGImages", "Annotations"))
        for folder in (images, masks):
            folder.mkdir(parents=True)
        for frame in range(frames):
            Image.new("RGB", size).save(images / f"{frame:05d}.jpg")
            mask = np.zeros(size[::-1], dtype=np.uint8)
            mask[0, : objects + 1] = range(objects + 1)
            mask[1, 0] = 255
            write_mask(masks / f"{frame:05d}.png", mask)
    lists = root / "ImageSets" / "2017"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("one\ntwo\n")
    return root


def test_the_official_layout_is_read(tmp_path):
    davis(tmp_path / "DAVIS")
    videos = load_davis(tmp_path)
    assert [video.name for video in videos] == ["one", "two"]
    masks = videos[0].read_annotations()
    assert masks.shape == (4, 8, 12)
    assert masks[2, 0, :4].tolist() == [0, 1, 2, 0]
    assert masks[2, 1, 0] == 255


def test_masks_are_indexed_with_the_official_colours(tmp_path):
    mask = np.random.default_rng(0).integers(0, 256, (5, 7))
    write_mask(tmp_path / "m.png", mask)
    assert np.array_equal(read_mask(tmp_path / "m.png"), mask)
    with Image.open(tmp_path / "m.png") as image:
        assert image.mode == "P"
        palette = np.array(image.getpalette()).reshape(-1, 3)
    # The first colours of DAVIS: binary digits of the index in half steps, 191 where VOC has 192.
    assert palette[:4].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]]
    assert palette[9].tolist() == [191, 0, 0]
    assert len(PALETTE) == 256
    assert len(set(PALETTE[:22])) == 22


def damage(kind, root):
    images, masks = root / "JPEGImages" / "480p" / "one", root / "Annotations" / "480p" / "one"
    if kind == "size":
        Image.new("RGB", (10, 8)).save(images / "00002.jpg")
    elif kind == "mask size":
        write_mask(masks / "00001.png", np.zeros((4, 4)))
    elif kind == "objects":
        write_mask(masks / "00003.png", np.full((8, 12), 3))
    elif kind == "gap":
        # Object 2 appears later, below the highest number of the first frame.
        for frame in range(4):
            write_mask(masks / f"{frame:05d}.png", np.resize([0, 1, 3] if frame != 2 else [0, 1, 2, 3], (8, 12)))
    elif kind == "missing":
        (masks / "00002.png").unlink()
    elif kind == "none":
        write_mask(masks / "00000.png", np.zeros((8, 12)))
    elif kind == "colours":
        Image.new("RGB", (12, 8)).save(masks / "00001.png")
    elif kind == "broken":
        (masks / "00001.png").write_bytes((masks / "00001.png").read_bytes()[:60])
    elif kind == "frame":
        (images / "00001.jpg").unlink()
    elif kind == "short":
        for frame in (2, 3):
            (images / f"{frame:05d}.jpg").unlink()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("size", r"00002.jpg is 10x8, the first frame 12x8"),
        ("mask size", r"Annotations|00001.png is 4x4"),
        ("objects", r"00003.png has object 3, the first frame only 1, 2"),
        ("gap", r"00002.png has object 2, the first frame only 1, 3"),
        ("frame", r"no frame of 1 of its annotations.*00001.png"),
        ("missing", r"no annotation of 1 of its 4 frames.*00002.png"),
        ("none", "no object in its first frame"),
        ("colours", "RGB colours"),
        ("broken", "no readable mask|cannot be read"),
        ("short", "has 2 frames"),
    ],
)
def test_a_damaged_video_is_one_clear_error(tmp_path, kind, message):
    davis(tmp_path)
    damage(kind, tmp_path)
    one, two = load_davis(tmp_path)
    with pytest.raises(ValueError, match=message):
        one.read_annotations()
    assert two.read_annotations().shape == (4, 8, 12)


def test_missing_folders_and_lists(tmp_path):
    with pytest.raises(FileNotFoundError, match="JPEGImages"):
        load_davis(tmp_path)
    davis(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"test\.txt"):
        load_davis(tmp_path, "test")
    (tmp_path / "ImageSets" / "2017" / "val.txt").write_text("three\n")
    with pytest.raises(FileNotFoundError, match="three"):
        load_davis(tmp_path)
    (tmp_path / "ImageSets" / "2017" / "val.txt").write_text("../one\n")
    with pytest.raises(ValueError, match="no name of a folder"):
        load_davis(tmp_path)
