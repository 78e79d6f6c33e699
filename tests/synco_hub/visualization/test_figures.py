"""The figures hold every panel and box in its place and leave pyplot alone; every kind of map is that of its name."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from synco_hub.models import SynCoConfig, SynCoModel, image_processor
from synco_hub.visualization import (
    MAP_KINDS,
    AttentionMaps,
    GridColumn,
    attention_maps,
    drawn_map,
    gradient_maps,
    grid_figure,
    mass_mask,
    overlay,
    paper_kinds,
    prepared_image,
    save_figure,
    upsample,
)
from synco_hub.visualization.figures import FigureStyle, attention_figure


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
        "from synco_hub.visualization.figures import attention_figure\n"
        "maps = AttentionMaps(torch.rand(1, 2, 2), torch.rand(1, 2, 2), torch.rand(1, 3, 2, 2), (4, 4))\n"
        "attention_figure(numpy.zeros((4, 4, 3)), maps)\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "assert matplotlib.rcParams.copy() == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def pictures(count: int, seed: int) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).random((count, 6, 8, 3)).astype(np.float32))


def test_every_picture_is_in_its_place():
    columns = [
        GridColumn(method, title, pictures(3, number))
        for number, (method, title) in enumerate([("", "Input"), ("moby", "a"), ("moby", "b"), ("byol", "a")])
    ]
    figure = grid_figure(columns)
    *panels, bar = figure.axes
    assert bar.get_ylabel() == "Relative value"
    for place, axis in enumerate(panels):
        row, column = divmod(place, 4)
        np.testing.assert_array_equal(axis.images[0].get_array(), columns[column].pictures[row])
    assert [axis.get_title(loc="left") for axis in panels[:4]] == ["\nInput", "moby\na", "\nb", "byol\na"]
    figure.draw_without_rendering()
    box = panels[0].get_window_extent()
    assert box.width / box.height == pytest.approx(8 / 6, rel=0.02)


def test_ragged_or_empty_columns_are_refused():
    for columns in ([], [GridColumn("", "Input", [])], [GridColumn("", "a", pictures(n, 0)) for n in (1, 2)]):
        with pytest.raises(ValueError, match="each needs one for every row"):
            grid_figure(columns)


@pytest.mark.parametrize("columns", [2, 3, 6])
def test_a_long_note_stays_within_the_figure(columns):
    note = "swin-nano: gradients of the " + ", ".join(f"score of predicted class number {n} (row {n})" for n in (1, 2))
    figure = grid_figure([GridColumn("", str(n), pictures(2, n)) for n in range(columns)], note=f"{note}\nand more")
    figure.draw_without_rendering()
    box = figure._supxlabel.get_window_extent()
    assert 0 <= box.x0 < box.x1 <= figure.bbox.x1
    assert box.y0 >= 0
    assert " ".join(figure.get_supxlabel().split()) == f"{note} and more"
    heads = attention_figure(image(), some_maps(3), FigureStyle(title=" ".join(["a long name of a checkpoint"] * 4)))
    heads.draw_without_rendering()
    for text in (heads._suptitle, heads._supxlabel):
        assert 0 <= text.get_window_extent().x0 < text.get_window_extent().x1 <= heads.bbox.x1


def test_a_map_of_zeros_says_so_and_no_other_does():
    picture = np.zeros((224, 224, 3), dtype=np.float32)
    zeros = overlay(picture, torch.zeros(224, 224))
    assert len(np.unique(zeros.reshape(-1, 3), axis=0)) > 10
    assert (zeros[:60] == zeros[0, 0]).all()
    even = overlay(picture, torch.ones(224, 224))
    assert (even == even[0, 0]).all()


def test_a_note_stands_below_and_takes_nothing_from_the_pictures():
    def grid(note):
        figure = grid_figure([GridColumn("", str(number), pictures(2, number)) for number in range(6)], note=note)
        figure.draw_without_rendering()
        return figure

    plain, noted = grid(None), grid("of the norm\nof the class")
    assert noted.get_supxlabel() == "of the norm\nof the class"
    assert noted.get_figheight() > plain.get_figheight()
    before, after = (figure.axes[-2].get_window_extent() for figure in (plain, noted))
    assert after.width == pytest.approx(before.width, rel=0.05)
    assert noted._supxlabel.get_window_extent().y1 < after.y0


@pytest.mark.parametrize("rows", [1, 2, 4])
@pytest.mark.parametrize("shape", [(6, 8, 3), (8, 8, 3), (12, 6, 3)])
def test_nothing_is_cut_at_the_edge(rows, shape):
    generator = np.random.default_rng(rows)
    columns = [
        GridColumn(method, title, list(generator.random((rows, *shape)).astype(np.float32)))
        for method, title in [("", "Input"), ("synco-v2-vit-nano", "[CLS]"), ("moby-vit-nano", "Patch")]
    ]
    figure = grid_figure(columns, note="gradients of the norm")
    figure.draw_without_rendering()
    texts = [axis.title for axis in figure.axes] + [axis._left_title for axis in figure.axes] + [figure._supxlabel]
    for text in texts:
        if text.get_text().strip():
            box = text.get_window_extent()
            assert box.y1 <= figure.bbox.y1, text.get_text()
            assert box.y0 >= figure.bbox.y0, text.get_text()


FITS = {
    "vit-nano": {"cls", "patch", "rollout", "cam", "saliency", "tokens", "foreground"},
    "swin-nano": {"cam", "saliency", "windows", "tokens", "foreground"},
}


def model_and_image(backbone: str):
    torch.manual_seed(0)
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    prepared = prepared_image(Image.fromarray(noise), image_processor(32), shown_side=64)
    return SynCoModel(SynCoConfig(backbone=backbone)).eval(), prepared


@pytest.mark.parametrize("backbone", FITS)
def test_each_kind_fits_or_says_that_it_does_not(backbone):
    model, prepared = model_and_image(backbone)
    drawn = []
    for kind in [kind for kind in MAP_KINDS if kind != "pca"]:
        if kind in FITS[backbone]:
            drawn.append(drawn_map(kind, model, prepared))
            assert drawn[-1].shape == prepared.shown.shape
        else:
            with pytest.raises(ValueError, match=r"Swin|windows"):
                drawn_map(kind, model, prepared)
    assert all(not np.allclose(a, b, atol=1e-3) for i, a in enumerate(drawn) for b in drawn[:i])
    assert set(paper_kinds(model)) < FITS[backbone]
    np.testing.assert_array_equal(drawn_map("pca", model, prepared), drawn_map("tokens", model, prepared))


def test_threshold_strength_and_colours_are_those_of_overlay():
    model, prepared = model_and_image("vit-nano")
    patch = attention_maps(model, prepared.pixel_values).patch
    large = upsample(patch * mass_mask(patch, 0.5), (64, 64))[0]
    expected = overlay(prepared.shown, large, 0.4, "magma")
    np.testing.assert_allclose(drawn_map("patch", model, prepared, 0.5, 0.4, "magma"), expected, atol=1e-6)
    swin, prepared = model_and_image("swin-nano")
    cam = upsample(gradient_maps(swin, prepared.pixel_values).cam, (64, 64))[0]
    np.testing.assert_allclose(drawn_map("cam", swin, prepared), overlay(prepared.shown, cam, 1.0), atol=1e-6)
    with pytest.raises(ValueError, match="kind 'clss' is unknown"):
        drawn_map("clss", swin, prepared)
