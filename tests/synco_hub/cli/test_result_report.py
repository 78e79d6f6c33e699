from pathlib import Path

from synco_hub.cli.result_report import print_end
from synco_hub.results import DataSource, EvaluationResult, ModelSource, ProtocolFacts


def ended(capsys, **settings):
    result = EvaluationResult(
        {"top1": 50.0}, ModelSource("m"), DataSource("d", "test", 2), ProtocolFacts("knn"), **settings
    )
    print_end(result, Path("r.json"))
    return capsys.readouterr().out.splitlines()


def test_notes_and_skipped_files_come_before_the_place(capsys):
    assert ended(capsys) == ["wrote r.json"]
    lines = ended(capsys, notes=("a note",), skipped_files=tuple(f"{index}.png" for index in range(12)))
    names = ", ".join(f"{index}.png" for index in range(10))
    assert lines == ["  a note", f"  skipped 12 unreadable files: {names}", "wrote r.json"]
