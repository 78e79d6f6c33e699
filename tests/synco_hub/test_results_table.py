import csv
import io
import json

import pytest

from synco_hub.results import DataSource, EvaluationResult, ModelSource, ProtocolFacts
from synco_hub.results_table import comparison, find_results, paper_rows, to_csv, to_json, to_markdown


def result(name, protocol="knn", partial=False, **metrics):
    return EvaluationResult(
        metrics=metrics,
        model=ModelSource(name),
        dataset=DataSource("fractals", "test", 100),
        protocol=ProtocolFacts(protocol),
        partial=partial,
    )


def test_a_folder_is_searched_and_other_files_are_passed_over(tmp_path):
    result("a", top1_k10=1.0).save(tmp_path / "a" / "knn.json")
    result("b", "linear_probe", top1_last_epoch=2.0).save(tmp_path / "b.json")
    (tmp_path / "config.json").write_text("{}")
    assert {found.model.name for found in find_results([tmp_path])} == {"a", "b"}
    assert [found.model.name for found in find_results([tmp_path], "knn")] == ["a"]
    with pytest.raises(ValueError, match="protocol 'linear_probe', 'knn' is asked for"):
        find_results([tmp_path / "b.json"], "knn")
    with pytest.raises(ValueError, match="no result of protocol 'ood'"):
        find_results([tmp_path], "ood")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        find_results([tmp_path / "nowhere"])


def test_the_papers_rows_stand_beside_ours():
    rows = comparison([result("mine", top1_k10=61.5), result("probe", "linear_probe", top1_last_epoch=50.0)])
    assert [row.protocol for row in rows] == ["knn"] * 7 + ["linear_probe"] * 7
    ours = {(row.model, row.source): row.metrics for row in rows}
    assert ours["SynCo-v2 DeiT-S", "paper, Table 12"]["top1_k10"] == 71.02
    assert ours["SynCo-v2 Swin-T", "paper, Table 13"] == {"top1_last_epoch": 75.4}
    assert len(comparison([result("mine", top1_k10=1.0)], with_paper=False)) == 1
    assert paper_rows("fine_tune") == []


def test_every_form_holds_the_same_numbers():
    rows = comparison([result("a|b", partial=True, top1_k10=12.345)])
    lines = to_markdown(rows).splitlines()
    assert lines[0] == "### knn"
    assert lines[4] == r"| a\|b\* | fractals (test) | 100 | 12.35 |  |  |  | measured here |" or "12.3" in lines[4]
    assert lines[-1].startswith(r"\* less was measured")
    table = list(csv.DictReader(io.StringIO(to_csv(rows))))
    assert table[0]["top1_k10"] == "12.345"
    assert table[3]["source"] == "paper, Table 12"
    assert json.loads(to_json(rows))[0]["metrics"] == {"top1_k10": 12.345}
