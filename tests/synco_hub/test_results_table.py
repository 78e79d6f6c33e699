import csv
import io
import json
from dataclasses import replace

import pytest

from synco_hub.results import DataSource, EvaluationResult, ModelSource, ProtocolFacts
from synco_hub.results_table import compare_results, find_paper_rows, find_results, to_csv, to_json, to_markdown


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


def test_a_result_of_the_version_before_is_loaded_and_tabled(tmp_path):
    values = result("old", top1_k10=61.5).to_dict()
    values["versions"]["synco_hub"] = "0.1.0"
    values["notes"] = ["batch size 8 of the train images was found by autotuning"]
    (tmp_path / "knn.json").write_text(json.dumps(values))
    (found,) = find_results([tmp_path])
    assert found.notes == ("batch size 8 of the train images was found by autotuning",)
    assert "| old |" in to_markdown(compare_results([found], with_paper=False))
    assert "61.5" in to_csv(compare_results([found], with_paper=False))


def test_two_probes_of_one_protocol_are_two_tables():
    rows = compare_results(
        [
            replace(result("a", miou=value), protocol=ProtocolFacts("segmentation", {"probe": probe}))
            for probe, value in (("linear", 20.0), ("knn", 15.0))
        ]
    )
    text = to_markdown(rows)
    assert "### segmentation, linear probe" in text
    assert "### segmentation, knn probe" in text


def test_the_papers_rows_stand_beside_ours():
    rows = compare_results([result("mine", top1_k10=61.5), result("probe", "linear_probe", top1_last_epoch=50.0)])
    assert [row.protocol for row in rows] == ["knn"] * 7 + ["linear_probe"] * 7
    ours = {(row.model, row.source): row.metrics for row in rows}
    assert ours["SynCo-v2 DeiT-S", "paper, Table 12"]["top1_k10"] == 71.02
    assert ours["SynCo-v2 Swin-T", "paper, Table 13"] == {"top1_last_epoch": 75.4}
    assert len(compare_results([result("mine", top1_k10=1.0)], with_paper=False)) == 1
    assert find_paper_rows("fine_tune") == []


def test_tables_13_and_14_stand_beside_robustness_detection_and_attacks():
    rows = compare_results(
        [
            result("a", "robustness", imagenet_top1=70.0, imagenet_c_top1=40.0, imagenet_c_fog_3_top1=1.0),
            result("a", "ood", fpr95_msp=80.0, tied_share_msp=0.0),
            result("a", "adversarial", top1_clean=70.0, top1_pgd=3.0, linf_max_pgd=0.03),
            result("a", "adversarial_own_settings", top1_clean=70.0),
        ]
    )
    ours = {(row.protocol, row.model): row.metrics for row in rows}
    assert ours["robustness", "SynCo-v2 DeiT-S"] == {
        "imagenet_top1": 73.1,
        "imagenet_v2_mf_top1": 60.8,
        "imagenet_v2_t0.7_top1": 69.6,
        "imagenet_v2_ti_top1": 75.5,
        "imagenet_c_top1": 44.5,
        "imagenet_a_top1_of_200": 10.2,
        "imagenet_w_top1": 55.7,
        "imagenet_sketch_top1": 22.3,
        "imagenet_r_top1_of_200": 31.7,
    }
    assert ours["ood", "MoBY DeiT-S"] == {"fpr95_msp": 100.0}
    assert ours["adversarial", "BYOL Swin-T"]["top1_one_pixel"] == 67.1
    assert len([row for row in rows if row.protocol == "adversarial_own_settings"]) == 1
    text = to_markdown(rows)
    assert "fog" not in text
    assert "linf" not in text
    assert "tied" not in text
    assert "imagenet_c_fog_3_top1" in to_csv(rows)


def test_corruptions_of_ones_choice_stand_in_the_table():
    fog = {"clean_top1": 70.0, "corrupted_fog_top1": 41.25, "corrupted_fog_3_top1": 7.77}
    every = {"clean_top1": 70.0, "corrupted_top1": 33.25, "corrupted_snow_top1": 22.22}
    text = to_markdown(compare_results([result("some", "robustness_on_the_fly", **fog)]))
    assert "| clean_top1 | corrupted_fog_top1 |" in text
    assert "| 70.00 | 41.25 |" in text
    assert "7.77" not in text
    both = to_markdown(
        compare_results(
            [result(name, "robustness_on_the_fly", **each) for name, each in (("some", fog), ("every", every))]
        )
    )
    assert "| 70.00 | 41.25 |  |" in both
    assert "33.25" in both
    assert "22.22" not in both


def test_own_data_stands_apart_from_the_papers_and_with_its_scatter():
    own = replace(result("mine", top1_k10=61.5), standard_errors={"top1_k10": 4.87})
    papers = replace(own, model=ModelSource("ours"), dataset=DataSource("imagenet-1k", "test", 50_000))
    text = to_markdown(compare_results([own, papers]))
    first, second = text.split("#### knn, the paper's data: ImageNet (validation)")
    assert "| mine | fractals (test) | 100 | 61.50 ± 4.87 | measured here |" in first
    assert "paper, Table 12" not in first
    assert "| ours | imagenet-1k (test) | 50,000 | 61.50 ± 4.87 |" in second
    assert second.count("paper, Table 12") == 6
    assert "± is one standard error" in second
    row = next(csv.DictReader(io.StringIO(to_csv(compare_results([own])))))
    assert (row["top1_k10"], row["top1_k10_standard_error"]) == ("61.5", "4.87")
    assert "####" not in to_markdown(compare_results([papers]))
    assert "####" not in to_markdown(compare_results([own], with_paper=False))


def test_the_best_epoch_is_named_as_chosen_on_the_test_images():
    text = to_markdown(compare_results([result("probe", "linear_probe", top1_last_epoch=43.0, top1_best_epoch=44.5)]))
    assert "| top1_last_epoch | top1_best_epoch (chosen on the test split) |" in text


def test_images_that_were_corrupted_in_several_ways_count_once():
    drawn = result("a", "robustness_on_the_fly", clean_top1=50.0)
    drawn.protocol.parameters["cells"] = {str(number): {"images": 50} for number in range(76)}
    of_version_0_1 = replace(drawn, dataset=DataSource("fractals", "test", 3_800))
    for each in (drawn, of_version_0_1):
        (row,) = compare_results([each])
        assert (row.images, row.times) == (50, 76)
        assert "| 50 × 76 | 50.00 |" in to_markdown([row])


def test_detections_are_a_line_a_score_beside_what_guessing_has():
    metrics = {"fpr95": 80.0, "auroc": 70.0, "aupr": 60.0, "fpr95_known_positive": 1.0, "tied_share": 2.0}
    found = result(
        "a", "ood_pair", **{f"{kind}_{name}": at for name in ("msp", "knn") for kind, at in metrics.items()}
    )
    found.protocol.parameters["in-distribution images"] = 300
    text = to_markdown(compare_results([found]))
    assert "| a | fractals (test) | 100 | msp | 80.00 | 70.00 | 60.00 | 25.00 | measured here |" in text
    assert len([line for line in text.splitlines() if line.startswith("| a ")]) == 2
    assert max(map(len, text.splitlines()[2:6])) < 120
    assert "known images that are taken for unknown" in text


def test_an_attack_that_did_nothing_is_null_and_not_a_number():
    null = result("a", "adversarial", top1_clean=70.0)
    null.protocol.parameters["attacks"] = {"cw": {"null": True}, "pgd": {"null": False}}
    rows = compare_results([null], with_paper=False)
    assert to_markdown(rows).splitlines()[2:5:2] == [
        "| model | data | images | top1_clean | top1_cw | source |",
        "| a | fractals (test) | 100 | 70.00 | null | measured here |",
    ]
    assert next(csv.DictReader(io.StringIO(to_csv(rows))))["top1_cw"] == "null"


def test_every_form_holds_the_same_numbers():
    rows = compare_results([result("a|b", partial=True, top1_k10=12.345)])
    lines = to_markdown(rows).splitlines()
    assert lines[0] == "### knn"
    assert lines[4] == r"| a\|b\* | fractals (test) | 100 | 12.35 |  |  |  | measured here |" or "12.3" in lines[4]
    assert lines[-1].startswith(r"\* less was measured")
    table = list(csv.DictReader(io.StringIO(to_csv(rows))))
    assert table[0]["top1_k10"] == "12.345"
    assert table[3]["source"] == "paper, Table 12"
    assert json.loads(to_json(rows))[0]["metrics"] == {"top1_k10": 12.345}
