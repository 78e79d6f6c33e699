import pytest
import torch
from matplotlib.patches import Rectangle
from PIL import Image

from synco_hub.visualization import save_figure
from synco_hub.visualization.box_figure import BoxedPicture, box_figure


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
