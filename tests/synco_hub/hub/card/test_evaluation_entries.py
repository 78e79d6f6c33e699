import dataclasses

import pytest
import yaml
from huggingface_hub import parse_eval_result_entries
from loopback_hub.card_rules import evaluation_errors

from synco_hub.hub.card.evaluation_entries import build_model_index, render_evaluation_files, write_evaluation_files
from synco_hub.results import DataSource, EvaluationResult, ModelSource, ProtocolFacts


def result(name: str = "cifar10", protocol: str = "knn", **metrics: float) -> EvaluationResult:
    return EvaluationResult(
        metrics=metrics or {"top1_k10": 61.25, "top1_k20": 60.0},
        model=ModelSource("my-vit"),
        dataset=DataSource(name, "test", 10_000),
        protocol=ProtocolFacts(protocol),
    )


def test_each_score_on_a_hub_data_set_is_a_file_that_the_hub_understands():
    files = render_evaluation_files([result(), result("someone/pictures", top1_k10=3.5)])
    assert sorted(files) == [
        "cifar10_knn_top1_k10.yaml",
        "cifar10_knn_top1_k20.yaml",
        "someone-pictures_knn_top1_k10.yaml",
    ]
    for text in files.values():
        assert evaluation_errors(text) == []
    (entry,) = parse_eval_result_entries(yaml.safe_load(files["cifar10_knn_top1_k10.yaml"]))
    assert (entry.dataset_id, entry.value) == ("uoft-cs/cifar10", 61.25)
    assert "top1_k10" in str(entry.notes)
    assert "10000 images" in str(entry.notes)


def test_what_has_no_data_set_on_the_hub_stands_in_the_card_alone():
    assert render_evaluation_files([result("fractals"), result("holiday"), result("voc2007")]) == {}
    entries = build_model_index([result("fractals")])
    assert [(entry.dataset_type, entry.metric_value) for entry in entries] == [("fractals", 61.25), ("fractals", 60.0)]


def test_speed_is_no_score():
    assert build_model_index([result(protocol="efficiency", images_per_second=900.0)]) == []
    assert render_evaluation_files([result(protocol="efficiency", images_per_second=900.0)]) == {}


def test_segmentation_is_a_task_of_its_own_and_its_classes_stand_in_the_result():
    measured = result("ade20k", "segmentation", miou=20.0, iou_wall=50.0)
    (entry,) = build_model_index([measured])
    assert (entry.task_type, entry.metric_type) == ("image-segmentation", "miou")
    assert entry.dataset_type == "zhoubolei/scene_parse_150"
    assert list(render_evaluation_files([measured])) == ["ade20k_segmentation_miou.yaml"]
    both = [
        dataclasses.replace(
            measured, metrics={"miou": value}, protocol=ProtocolFacts("segmentation", {"probe": probe})
        )
        for probe, value in (("linear", 20.0), ("knn", 15.0))
    ]
    assert len(render_evaluation_files(both)) == 2
    assert [entry.metric_name for entry in build_model_index(both)] == [
        "segmentation, linear probe miou",
        "segmentation, knn probe miou",
    ]


def test_a_partial_measurement_says_so_and_two_values_of_one_score_are_an_error():
    text = render_evaluation_files([dataclasses.replace(result(top1_k10=1.0), partial=True)])[
        "cifar10_knn_top1_k10.yaml"
    ]
    assert "partial" in text
    with pytest.raises(ValueError, match="two results give different values of top1_k10 by knn on cifar10"):
        render_evaluation_files([result(top1_k10=1.0), result(top1_k10=2.0)])


def test_the_folder_holds_exactly_the_results(tmp_path):
    write_evaluation_files(tmp_path, [result()])
    write_evaluation_files(tmp_path, [result(top1_k10=7.0)])
    assert [path.name for path in (tmp_path / ".eval_results").iterdir()] == ["cifar10_knn_top1_k10.yaml"]
