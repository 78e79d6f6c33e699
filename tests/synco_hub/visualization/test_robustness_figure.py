import pytest

from synco_hub.visualization.robustness_figure import Curve, robustness_figure

LEFT = [Curve("noise", (0, 1, 2), (90.0, 50.0, 20.0)), Curve("blur", (0, 1, 2), (90.0, 60.0, 40.0))]
RIGHT = [Curve("FGSM", (0, 8), (90.0, 10.0)), Curve("blur", (0, 8), (90.0, 5.0))]


def test_both_panels_show_the_numbers_under_one_legend():
    figure = robustness_figure(LEFT, RIGHT, 10.0, "title", "a note")
    left, right = figure.axes
    drawn = {line.get_label(): line for line in left.lines}
    assert list(drawn["noise"].get_ydata()) == [90.0, 50.0, 20.0]
    assert list(drawn["chance"].get_ydata()) == [10.0, 10.0]
    assert left.get_legend() is None
    assert right.get_legend() is None
    (legend,) = figure.legends
    assert sorted(text.get_text() for text in legend.get_texts()) == ["FGSM", "blur", "chance", "noise"]
    assert legend.get_title().get_text() == "a note"
    styles = [
        (line.get_color(), line.get_marker()) for line in (*left.lines, *right.lines) if line.get_label() != "chance"
    ]
    assert len({colour for colour, _ in styles}) == len({marker for _, marker in styles}) == 3
    assert {line.get_color() for axes in figure.axes for line in axes.lines if line.get_label() == "blur"} == {
        drawn["blur"].get_color()
    }


def test_curves_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="3 places and 2 accuracies"):
        robustness_figure([Curve("noise", (0, 1, 2), (1.0, 2.0))], [], 10.0, "t")
    with pytest.raises(ValueError, match="8 curves: 7 can be told apart"):
        robustness_figure([Curve(str(index), (0,), (1.0,)) for index in range(8)], [], 10.0, "t")
