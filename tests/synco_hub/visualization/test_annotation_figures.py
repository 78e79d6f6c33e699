import numpy as np
import pytest
import torch
from matplotlib.patches import Rectangle
from PIL import Image

from synco_hub.data.davis import PALETTE
from synco_hub.visualization import save_figure
from synco_hub.visualization.annotation_figures import BoxedPicture, MaskColumn, box_figure, mask_figure


def picture(title):
    annotated = torch.tensor([[0.0, 0, 20, 10], [4, 2, 9, 8]])
    return BoxedPicture(Image.new("RGB", (20, 10), "grey"), torch.tensor([3.0, 2, 12, 9]), annotated, title)


def test_every_box_is_drawn_where_it_is(tmp_path):
    figure = box_figure([picture(str(number)) for number in range(5)], columns=3, title="LOST")
    axes = figure.axes
    assert len(axes) == 6
    boxes = [patch for patch in axes[0].patches if isinstance(patch, Rectangle)]
    corners = [(b.get_x() + 0.5, b.get_y() + 0.5, b.get_width(), b.get_height()) for b in boxes]
    assert corners == [(0, 0, 20, 10), (4, 2, 5, 6), (3, 2, 9, 7)]
    assert not axes[5].patches
    assert save_figure(figure, tmp_path / "boxes.png").stat().st_size > 1000


def test_a_figure_needs_a_picture():
    with pytest.raises(ValueError, match="0 pictures"):
        box_figure([])


def test_masks_stand_beside_their_image_in_the_colours_of_their_classes(tmp_path):
    images = [Image.new("RGB", (5, 4), colour) for colour in ("grey", "white")]
    masks = [torch.tensor([[0, 1], [2, 255]]), torch.tensor([[1, 1]])]
    columns = [MaskColumn("Truth", masks), MaskColumn("one model", masks[::-1]), MaskColumn("another", masks)]
    figure = mask_figure(images, columns, ["ground", "bird", "bee"])
    axes = np.array(figure.axes).reshape(2, 4)
    assert [axis.get_title() for axis in axes[0]] == ["Image", "Truth", "one model", "another"]
    drawn = axes[0, 1].images[0].get_array()
    assert [tuple(each) for each in drawn.reshape(-1, 3).tolist()] == [*PALETTE[:3], (224, 224, 224)]
    assert np.array_equal(axes[1, 2].images[0].get_array(), drawn)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["ground", "bird", "bee"]
    assert save_figure(figure, tmp_path / "masks.pdf").stat().st_size > 1000
    with pytest.raises(ValueError, match="2 images, and columns of"):
        mask_figure(images, [MaskColumn("Truth", masks[:1])], ["ground"])


def test_a_figure_of_many_classes_has_no_legend():
    columns = [MaskColumn("Truth", [torch.tensor([[0, 149]])])]
    assert not mask_figure([Image.new("RGB", (2, 1))], columns, [str(number) for number in range(150)]).legends
