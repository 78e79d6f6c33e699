"""`synco_hub.cli.results` by the command line, as a user calls it."""

from command_line import invoke

from synco_hub.results import DataSource, EvaluationResult, ModelSource, ProtocolFacts


def test_a_table_is_printed_and_written(tmp_path):
    EvaluationResult(
        metrics={"top1_k10": 61.5},
        model=ModelSource("mine"),
        dataset=DataSource("fractals", "test", 100),
        protocol=ProtocolFacts("knn"),
    ).save(tmp_path / "runs" / "knn.json")
    output = tmp_path / "table.md"
    done = invoke(["results", "table", str(tmp_path / "runs"), "--output", str(output)])
    assert done.exit_code == 0, done.output
    assert done.output == output.read_text()
    assert "| mine | fractals (test) | 100 | 61.50 |" in done.output
    assert "SynCo-v2 DeiT-S" in done.output
    assert invoke(["results", "table", str(tmp_path / "nowhere")]).exit_code == 1
