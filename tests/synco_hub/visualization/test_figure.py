"""The figure holds every panel in order, at the image's shape, and leaves pyplot alone."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from synco_hub.visualization import AttentionMaps
from synco_hub.visualization.figure import FigureStyle, attention_figure, save_figure
from synco_hub.visualization.overlay import overlay


def some_maps(heads: int = 6, grid: tuple[int, int] = (4, 6), batch: int = 1) -> AttentionMaps:
    generator = torch.Generator().manual_seed(heads)
    return AttentionMaps(
        cls=torch.rand(batch, *grid, generator=generator),
        patch=torch.rand(batch, *grid, generator=generator),
        heads=torch.rand(batch, heads, *grid, generator=generator),
        image_size=(grid[0] * 8, grid[1] * 8),
    )


def image(height: int = 32, width: int = 48) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("heads", [1, 3, 6, 8, 16])
def test_panels_are_input_class_patch_and_heads_with_one_colour_bar(heads: int) -> None:
    figure = attention_figure(image(), some_maps(heads))
    *panels, bar = figure.axes
    names = [panel.get_title() for panel in panels]
    each = [f"Head {number}" for number in range(1, heads + 1)] if heads > 1 else []
    assert names == ["Input", "[CLS] attention", "Patch self-attention", *each]
    assert bar.get_ylabel() == "Relative attention"
    figure.draw_without_rendering()
    for panel in panels:
        box = panel.get_window_extent()
        assert box.width / box.height == pytest.approx(48 / 32, rel=0.01)


def test_each_panel_shows_its_own_map() -> None:
    maps, picture = some_maps(2), image()
    figure = attention_figure(picture, maps, FigureStyle("magma", 0.7))
    shown = [panel.images[0].get_array() for panel in figure.axes[:-1]]
    large = maps.upsampled((32, 48))
    np.testing.assert_allclose(shown[0], np.asarray(picture) / 255, atol=1e-6)
    for drawn, attention in zip(shown[1:], [large.cls[0], large.patch[0], *large.heads[0]], strict=True):
        np.testing.assert_allclose(drawn, overlay(picture, attention, 0.7, "magma"), atol=1e-6)


def test_the_threshold_and_the_title_are_drawn() -> None:
    maps = some_maps(2)
    figure = attention_figure(image(), maps, FigureStyle(mass=0.3, title="synco-v2-deit-s"))
    expected = overlay(image(), maps.thresholded(0.3).upsampled((32, 48)).patch[0], 1.0)
    np.testing.assert_allclose(figure.axes[2].images[0].get_array(), expected, atol=1e-6)
    assert figure.get_suptitle() == "synco-v2-deit-s"


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("a.pdf", b"%PDF"), ("A.PNG", b"\x89PNG")])
def test_files_are_whole_and_alone(tmp_path: Path, name: str, start: bytes) -> None:
    path = save_figure(attention_figure(image(), some_maps(3)), tmp_path / "figures" / name, dpi=50)
    assert path.read_bytes().startswith(start)
    assert list(path.parent.iterdir()) == [path]


def test_a_pdf_embeds_outlines_that_publishers_take(tmp_path: Path) -> None:
    path = save_figure(attention_figure(image(), some_maps(3)), tmp_path / "a.pdf", dpi=50)
    assert b"/Type3" not in path.read_bytes()


def test_other_formats_and_several_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"does not end in .png or .pdf"):
        save_figure(attention_figure(image(), some_maps(3)), tmp_path / "a.jpg")
    with pytest.raises(ValueError, match=r"maps hold 2 images.* maps\[i\]"):
        attention_figure(image(), some_maps(3, batch=2))


def test_pyplot_and_its_settings_are_left_alone() -> None:
    code = (
        "import sys, matplotlib; before = matplotlib.rcParams.copy()\n"
        "import numpy, torch\n"
        "from synco_hub.visualization import AttentionMaps\n"
        "from synco_hub.visualization.figure import attention_figure\n"
        "maps = AttentionMaps(torch.rand(1, 2, 2), torch.rand(1, 2, 2), torch.rand(1, 3, 2, 2), (4, 4))\n"
        "attention_figure(numpy.zeros((4, 4, 3)), maps)\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "assert matplotlib.rcParams.copy() == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
