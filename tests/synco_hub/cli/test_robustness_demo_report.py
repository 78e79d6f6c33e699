import pytest
from PIL import Image

from synco_hub.cli.robustness_demo_report import FAMILIES, draw, table
from synco_hub.data.catalog.sets import BENCHMARK_CORRUPTIONS
from synco_hub.evaluation.shifts.accuracy_cell import AccuracyCell
from synco_hub.evaluation.shifts.robustness_metrics import robustness_metrics
from synco_hub.results import DataSource, EvaluationResult, ModelSource, ProtocolFacts


@pytest.fixture
def results(tmp_path):
    cells = {"clean": AccuracyCell(100, 80)}
    for place, name in enumerate(BENCHMARK_CORRUPTIONS):
        for severity in range(1, 6):
            cells[f"corrupted/{name}/{severity}"] = AccuracyCell(100, 75 - 10 * severity + place)
    facts = ProtocolFacts("robustness_on_the_fly", {"cells": {key: cell.to_dict() for key, cell in cells.items()}})
    data = DataSource("fractals", "test", 100, num_classes=10)
    EvaluationResult(robustness_metrics(cells), ModelSource("m"), data, facts).save(tmp_path / "corrupted.json")
    for number in (1, 2, 4, 8):
        metrics = {"top1_clean": 80.0, "top1_fgsm": 60.0 - 5 * number, "top1_pgd": 50.0 - 5 * number}
        EvaluationResult(metrics, ModelSource("m"), data, ProtocolFacts("adversarial")).save(
            tmp_path / f"{number}.json"
        )
    return tmp_path


def test_the_table_has_every_cell(results):
    text = table(results / "corrupted.json", results / "8.json")
    assert "| fog (weather) | 74.0 | 64.0 | 54.0 | 44.0 | 34.0 | 54.0 |" in text
    assert "### adversarial" in text
    assert text.count("(blur)") == 4
    assert sorted(name for names in FAMILIES.values() for name in names) == sorted(BENCHMARK_CORRUPTIONS)


def test_the_figure_is_written(results):
    weaker = {number: results / f"{number}.json" for number in (4, 1, 2)}
    picture = draw(results / "corrupted.json", results / "8.json", weaker, results / "figure.png")
    with Image.open(picture) as image:
        assert image.width > 1000
