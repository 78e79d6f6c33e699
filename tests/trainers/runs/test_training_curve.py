import pytest
from PIL import Image

from trainers.runs.training_curve import draw_training_curve, save_training_curve, series

HISTORY = [
    {"step": 10, "loss": 9.0, "contrast_accuracy": 0.1, "synthetic_active": 0.0, "learning_rate": 1e-4},
    {"step": 20, "loss": 8.0, "contrast_accuracy": 0.2, "synthetic_active": 1.0, "learning_rate": 2e-4},
    {"step": 25, "knn_top1_k10": 40.0},
    {"step": 30, "loss": 7.0, "contrast_accuracy": 0.4, "synthetic_active": 1.0, "learning_rate": 3e-4},
    {"train_runtime": 3.0},
]


def test_a_series_has_the_steps_at_which_it_was_logged():
    assert series(HISTORY, "loss") == ([10.0, 20.0, 30.0], [9.0, 8.0, 7.0])
    assert series(HISTORY, "knn_top1_k10") == ([25.0], [40.0])
    assert series(HISTORY, "momentum") == ([], [])


def test_the_panels_show_the_logged_numbers_and_no_others():
    figure = draw_training_curve(HISTORY, "moby on fractals")
    assert [axis.get_title() for axis in figure.axes] == [
        "loss",
        "contrast accuracy",
        "k-NN top-1 (%)",
        "learning rate",
    ]
    line = figure.axes[0].lines[0]
    assert list(line.get_xdata()) == [10.0, 20.0, 30.0]
    assert list(line.get_ydata()) == [9.0, 8.0, 7.0]
    assert figure.get_suptitle() == "moby on fractals"
    shaded = figure.axes[0].patches[0].get_extents().transformed(figure.axes[0].transData.inverted())
    assert (shaded.x0, shaded.x1) == pytest.approx((20.0, 30.0))
    for axis in figure.axes:
        assert "with synthetic negatives" in [text.get_text() for text in axis.get_legend().get_texts()]


def test_the_untrained_network_is_a_line_beside_the_trained_one():
    before = {"step": 0, "knn_top1_k10": 31.0, "knn_top1_k20": 29.0}
    (axis,) = [a for a in draw_training_curve([before, *HISTORY], "x").axes if a.get_title().startswith("k-NN")]
    lines = {line.get_label(): line for line in axis.lines}
    assert set(lines) == {"k = 10", "k = 10, untrained", "k = 20", "k = 20, untrained"}
    assert list(lines["k = 10"].get_ydata()) == [31.0, 40.0]
    assert set(lines["k = 10, untrained"].get_ydata()) == {31.0}
    assert lines["k = 10"].get_color() == lines["k = 10, untrained"].get_color()
    # A run that goes on from an earlier version has none.
    (axis,) = [a for a in draw_training_curve(HISTORY, "x").axes if a.get_title().startswith("k-NN")]
    assert [line.get_label() for line in axis.lines] == ["k = 10"]


def test_the_picture_is_a_png(tmp_path):
    path = save_training_curve(HISTORY, "x", tmp_path / "curve.png")
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.width > 500


def test_a_run_that_logged_nothing_has_no_picture(tmp_path):
    with pytest.raises(ValueError, match="--logging-steps"):
        save_training_curve([{"train_runtime": 3.0}], "x", tmp_path / "curve.png")
    assert list(tmp_path.iterdir()) == []


def test_a_domain_to_keep_is_drawn_beside_the_new_one():
    history = [
        {"step": step, "knn_top1_k10": 50.0 + step, "knn_keep_top1_k10": 60.0 - step} for step in (0, 10)
    ] + HISTORY
    (axis,) = [a for a in draw_training_curve(history, "x").axes if a.get_title().startswith("k-NN")]
    lines = {line.get_label(): list(line.get_ydata()) for line in axis.lines}
    assert lines["domain to keep, k = 10"] == [60.0, 50.0]
    assert "k = 10, at the start" in lines
    words = [text.get_text() for text in axis.get_legend().get_texts()]
    assert words[:3] == ["k = 10", "dashed: at the start", "domain to keep, k = 10"]
    assert len(words) == 4
