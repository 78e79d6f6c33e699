"""Tables of the site are those of the result files beside them, and README says numbers that stand there."""

import json
from pathlib import Path

import pytest

from synco_hub.cli.ablation_tables import FinishedRun, compare_pairs, markdown, summarize_runs

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"


@pytest.mark.parametrize("file", sorted(RESULTS.glob("*.json")), ids=lambda file: file.stem)
def test_a_table_is_made_of_its_runs(file):
    data = json.loads(file.read_text())
    runs = [FinishedRun(**run) for run in data["runs"]]
    reference = data["differences"][0]["reference"]
    differences = compare_pairs(runs, data["metric"], reference)
    setting = ", ".join(f"{name}={value}" for name, value in data["settings"].items())
    table = markdown(summarize_runs(runs, data["metric"]), data["metric"], f"Same for all: {setting}.", differences)
    assert file.with_suffix(".md").read_text() == table
    seeds = {run.seed for run in runs if run.arm == reference}
    assert len(seeds) >= 5
    assert f'--8<-- "docs/results/{file.stem}.md"' in (RESULTS.parent / "results.md").read_text()


def test_the_table_of_readme_is_that_of_the_methods():
    data = json.loads((RESULTS / "fashion-mnist-methods.json").read_text())
    cells = [f"{row['mean']:.1f}" + (f" ± {row['sd']:.1f}" if row["sd"] is not None else "") for row in data["rows"]]
    assert [row["method"].rpartition("/")[2] for row in data["rows"]] == [
        "pixels",
        "untrained",
        "moby",
        "byol",
        "synco-v2",
    ]
    table = f"| pixels | untrained | MoBY | BYOL | SynCo-v2 |\n|---|---|---|---|---|\n| {' | '.join(cells)} |\n"
    assert table in (RESULTS.parents[1] / "README.md").read_text()
