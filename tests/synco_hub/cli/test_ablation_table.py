import csv
import json
import math

import numpy as np
import pytest
from PIL import Image

from synco_hub.cli.ablation_table import (
    FinishedRun,
    Row,
    comma_separated,
    figure,
    finding,
    markdown,
    rows_of,
    write_tables,
)


def runs_of(values: dict[str, list[float]]) -> list[FinishedRun]:
    return [
        FinishedRun(arm, seed, {"top1_k10": value, "top1_k20": value / 2}, 60.0 * (seed + 1))
        for arm, found in values.items()
        for seed, value in enumerate(found)
    ]


def test_means_and_sample_standard_deviations():
    generator = np.random.default_rng(0)
    values = {"byol": generator.uniform(20, 80, 4).tolist(), "moby": generator.uniform(20, 80, 3).tolist()}
    rows = rows_of(runs_of(values), "top1_k10")
    for row in rows:
        own = np.array(values[row.method])
        assert row.mean == pytest.approx(own.mean())
        assert row.sd == pytest.approx(math.sqrt(((own - own.mean()) ** 2).sum() / (len(own) - 1)))
        assert (row.lowest, row.highest, row.runs) == (own.min(), own.max(), len(own))
    assert rows[0].minutes == pytest.approx(2.5)
    assert [row.mean for row in rows_of(runs_of(values), "top1_k20")] == pytest.approx([row.mean / 2 for row in rows])


def test_a_single_seed_has_no_standard_deviation():
    row = rows_of(runs_of({"moby": [50.0]}), "top1_k10")[0]
    assert row.sd is None
    assert "| moby | 50.0 | 50.0 | 50.0 | 1 | 1.0 |" in markdown([row], "top1_k10", "x")
    assert "no scatter" in finding(rows_of(runs_of({"moby": [50.0], "byol": [40.0]}), "top1_k10"))


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        (
            {"moby": [70.0, 71.0, 72.0], "synco-v2": [60.0, 61.0, 62.0]},
            "moby is 10.0 points above synco-v2, which is more than",
        ),
        (
            {"moby": [60.0, 70.0, 80.0], "synco-v2": [61.0, 70.0, 81.0]},
            "synco-v2 is 0.7 points above moby, which is no more",
        ),
    ],
)
def test_the_finding_names_whoever_is_ahead_and_whether_it_means_something(values, verdict):
    assert verdict in finding(rows_of(runs_of(values), "top1_k10"))


def test_exactly_twice_the_standard_error_is_no_more_than_it():
    # The error of the difference is √(6²/4 + 8²/4) = 5 points, without any rounding.
    second = Row("byol", 4, 50.0, 8.0, 40.0, 60.0, 1.0)
    at, above = (
        finding([Row("moby", 4, mean, 6.0, 50.0, 70.0, 1.0), second]) for mean in (60.0, math.nextafter(60.0, 61.0))
    )
    assert (
        at
        == "moby is 10.0 points above byol, which is no more than twice the standard error of that difference (5.0)."
    )
    assert above == at.replace("no more than", "more than")


def test_an_unknown_metric_names_the_known():
    with pytest.raises(ValueError, match=r"'top9'.*top1_k10, top1_k20"):
        rows_of(runs_of({"moby": [1.0]}), "top9")


def test_the_linear_probe_is_a_further_column_of_every_form(tmp_path):
    probes = {"untrained": [None, None], "moby": [61.5, 64.5], "synco-v2": [70.0, 66.0]}
    values = {"untrained": [30.0, 32.0], "moby": [55.5, 60.5], "synco-v2": [58.0, 57.0]}
    runs = [
        FinishedRun(arm, seed, {"top1_k10": value}, 60.0, probes[arm][seed])
        for arm, found in values.items()
        for seed, value in enumerate(found)
    ]
    rows = {row.method: row for row in rows_of(runs, "top1_k10")}
    assert (rows["untrained"].probe_mean, rows["untrained"].probe_sd) == (None, None)
    assert rows["moby"].probe_mean == 63.0
    assert rows["moby"].probe_sd == pytest.approx(np.std([61.5, 64.5], ddof=1))
    paths = write_tables(tmp_path, runs, "top1_k10", {"probe": "cached features (not the paper's protocol)"})
    text = paths[0].read_text()
    assert "| moby | 58.0 ± 3.5 | 55.5 | 60.5 | 2 | 1.0 | 63.0 ± 2.1 |" in text
    assert "| 2 | 1.0 | – |" in text
    assert "not the paper's protocol" in text
    data = json.loads(paths[1].read_text())
    assert [row["probe_mean"] for row in data["rows"]] == [None, 63.0, 68.0]
    assert [run["probe"] for run in data["runs"]] == [None, None, 61.5, 64.5, 70.0, 66.0]
    table = list(csv.DictReader(paths[2].read_text().splitlines()))
    assert [row["probe_mean"] for row in table] == ["", "63.0", "68.0"]
    drawn = figure(runs, list(rows.values()), "top1_k10").axes[0]
    heights = sorted(bar.get_height() for bar in drawn.patches)
    assert heights == sorted([31.0, 58.0, 57.5, 63.0, 68.0])
    assert [entry.get_text() for entry in drawn.get_legend().get_texts()] == ["top1_k10", "linear probe top-1"]


def test_all_forms_say_the_same(tmp_path):
    runs = runs_of({"untrained": [30.0, 32.0], "moby": [55.5, 60.5], "synco-v2": [58.0, 57.0]})
    paths = write_tables(tmp_path, runs, "top1_k10", {"max_steps": 7})
    assert [path.name for path in paths] == ["ablation.md", "ablation.json", "ablation.csv", "ablation.png"]
    data = json.loads(paths[1].read_text())
    table = list(csv.DictReader(paths[2].read_text().splitlines()))
    assert [row["method"] for row in data["rows"]] == [row["method"] for row in table]
    assert [row["mean"] for row in data["rows"]] == [float(row["mean"]) for row in table]
    assert "| moby | 58.0 ± 3.5 | 55.5 | 60.5 | 2 | 1.5 |" in paths[0].read_text()
    assert "max_steps=7" in paths[0].read_text()
    assert len(data["runs"]) == 6
    assert comma_separated(rows_of(runs, "top1_k10")) == paths[2].read_text()
    with Image.open(paths[3]) as image:
        assert image.format == "PNG"
