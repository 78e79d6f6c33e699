"""A result survives the way to disk and back; what is no result is refused by name."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from synco_hub.results import (
    SCHEMA_VERSION,
    DataSource,
    EvaluationResult,
    ModelSource,
    ProtocolFacts,
    device_name,
    explain_standard_errors,
    library_versions,
)


def a_result(**change: Any) -> EvaluationResult:
    result = EvaluationResult(
        metrics={"top1_k10": 61.25, "top5_k10": 90},
        model=ModelSource("synco-v2-deit-s", "[CLS] token after the final norm", "abc", 21_665_664),
        dataset=DataSource("fractals", "test", 200, "f00", "10 classes × 20 images", 10),
        protocol=ProtocolFacts("knn", {"ks": [10], "temperature": 0.07}),
        training_dataset=DataSource("fractals", "train", 1000),
        preprocessing={"resize": 256, "mean": [0.5, 0.5, 0.5]},
        seed=3,
        duration_s=1.5,
        skipped_files=("broken/ä.jpg",),
        partial=True,
        notes=("k=200 was left out",),
    )
    return replace(result, **change)


def test_save_and_load_give_the_same_result(tmp_path: Path) -> None:
    result = a_result()
    path = result.save(tmp_path / "deep" / "knn.json")
    assert EvaluationResult.load(path, protocol="knn") == result
    assert EvaluationResult.load(path).skipped_files == ("broken/ä.jpg",)


def test_the_json_says_what_people_look_for() -> None:
    values = json.loads(a_result().to_json())
    assert values["schema_version"] == SCHEMA_VERSION
    assert values["metrics"]["top1_k10"] == 61.25
    assert values["dataset"]["count"] == 200
    assert values["protocol"]["parameters"]["temperature"] == 0.07
    assert set(values["versions"]) == {"python", "torch", "timm", "transformers", "synco_hub"}


def test_a_result_without_optional_parts_is_loaded(tmp_path: Path) -> None:
    small = EvaluationResult({"x": 1.0}, ModelSource("m"), DataSource("d", "test", 1), ProtocolFacts("probe"))
    assert EvaluationResult.load(small.save(tmp_path / "r.json")) == small


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metrics": {"top1": float("nan")}}, "metric 'top1' is nan"),
        ({"metrics": {"top1": float("inf")}}, "metric 'top1' is inf"),
        ({"metrics": {"top1": "61"}}, "metric 'top1' is '61'"),
        ({"metrics": {"top1": True}}, "metric 'top1' is True"),
        ({"metrics": {}}, "empty"),
        ({"preprocessing": {"mean": float("nan")}}, "does not fit into JSON"),
        ({"protocol": ProtocolFacts("knn", {"ks": {1, 2}})}, "'knn' does not fit into JSON"),
    ],
)
def test_what_is_no_number_or_no_json_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        a_result(**change)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not a JSON file"),
        ("[]", "holds a JSON list"),
        ("{}", "schema_version None"),
        ('{"schema_version": 99}', "schema_version 99, this version of synco-hub reads 1"),
        ('{"schema_version": 1}', "has no 'model'"),
    ],
)
def test_files_that_are_no_result_are_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as refused:
        EvaluationResult.load(path)
    assert "r.json" in str(refused.value)


def test_unknown_fields_are_refused_rather_than_lost(tmp_path: Path) -> None:
    values = a_result().to_dict()
    values["dataset"]["colour"] = "blue"
    with pytest.raises(ValueError, match="unknown colour in its DataSource"):
        EvaluationResult.from_dict(values)


def test_another_protocol_is_refused_by_name(tmp_path: Path) -> None:
    path = a_result().save(tmp_path / "r.json")
    with pytest.raises(ValueError, match="protocol 'knn', 'linear_probe' is asked for"):
        EvaluationResult.load(path, protocol="linear_probe")


def test_nothing_is_written_into_a_folder_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a folder"):
        a_result().save(tmp_path)
    with pytest.raises(FileNotFoundError):
        EvaluationResult.load(tmp_path / "absent.json")


def test_versions_and_device_are_in_words() -> None:
    assert library_versions()["torch"].count(".") >= 2
    assert device_name("cpu") == "cpu"


def test_an_error_of_zero_is_not_left_to_be_taken_for_certainty() -> None:
    assert explain_standard_errors([]) == ()
    assert len(explain_standard_errors([3.2, 0.004])) == 1
    usual, certain = explain_standard_errors([0.0, 3.2])
    assert "one standard error" in usual
    assert "300 / n %" in certain
