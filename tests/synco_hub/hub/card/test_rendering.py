import json

import pytest
from huggingface_hub import ModelCard

from synco_hub.hub.card.facts import CardFacts
from synco_hub.hub.card.rendering import find_reported_markdown, find_reported_tables, render_card, results_table
from synco_hub.models import SynCoConfig
from synco_hub.results import DataSource, EvaluationResult, ModelSource, ProtocolFacts


def config_of(**values) -> dict:
    return json.loads(SynCoConfig(backbone="vit-nano", **values).to_json_string(use_diff=False))


def result(partial=False, **metrics: float) -> EvaluationResult:
    return EvaluationResult(
        metrics=metrics,
        model=ModelSource("my-vit"),
        dataset=DataSource("photo|graphs", "test", 40),
        protocol=ProtocolFacts("knn", {}),
        partial=partial,
    )


def test_a_run_without_room_for_synthetic_negatives_is_said_to_be_what_it_was():
    def text_of(**training) -> str:
        return str(render_card("own", config_of(), {"training": training}, [], CardFacts()))

    assert "Its run of 4 steps made no synthetic negative, so it trained as MoBY does." in text_of(
        steps=4, synthetic_steps=0
    )
    assert "made no synthetic negative" not in text_of(steps=9, synthetic_steps=3)
    assert "made no synthetic negative" not in text_of(steps=9)


def rows_of(text: str) -> list[list[str]]:
    """A table of Markdown as cells; a bar that is escaped does not end a cell."""
    lines = [line.replace("\\|", "\0") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip().replace("\0", "|") for cell in line.strip("|").split("|")] for line in lines]


def test_every_number_stands_beside_its_protocol_and_its_data():
    header, _, *rows = rows_of(results_table([result(top1_k10=61.254, top1_k20=7.0), result(True, top1_k10=1.0)]))
    assert header == ["protocol", "data", "metric", "value"]
    assert rows == [
        ["knn", "photo|graphs (test, 40 images)", "top1_k10", "61.25"],
        ["knn", "photo|graphs (test, 40 images)", "top1_k20", "7.00"],
        ["knn", "photo|graphs (test, 40 images)", "top1_k10", "1.00 (partial)"],
    ]
    assert results_table([]).startswith("Not measured yet")


def test_what_nothing_says_is_said_to_be_unknown():
    card = render_card("my-vit", config_of(), {}, [], CardFacts())
    assert card.text.count("Unknown: nothing beside the weights") == 2
    assert "No licence has been chosen yet" in card.text
    assert "license" not in card.data.to_dict()


def test_nested_settings_become_rows_and_a_cell_stays_one_cell():
    pretraining = {"training": {"note": "a|b\nc", "nothing": None, "deep": {"er": 3}}}
    card = render_card("my-vit", config_of(), pretraining, [], CardFacts())
    rows = rows_of(card.text)
    assert ["training.note", "a|b c"] in rows
    assert ["training.deep.er", "3"] in rows
    assert not [row for row in rows if row[0].endswith("nothing")]


def test_the_kind_of_model_decides_what_the_hub_offers_it_for():
    for architecture, pipeline in (
        ("SynCoModel", "image-feature-extraction"),
        ("SynCoForImageClassification", "image-classification"),
    ):
        card = render_card("me/my-vit", config_of() | {"architectures": [architecture]}, {}, [], CardFacts())
        assert card.data.pipeline_tag == pipeline


def test_the_metadata_are_yaml_whatever_people_wrote(tmp_path):
    facts = CardFacts(licence="other", licence_name='a: "b" #c', licence_note="---\nnot: metadata", title="x: y")
    render_card("my-vit", config_of(), {}, [result(top1=1.0)], facts).save(tmp_path / "README.md")
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.license_name == 'a: "b" #c'
    assert card.data.to_dict().get("not") is None
    assert "# x: y" in card.text


def test_numbers_of_the_paper_by_hand():
    knn, robustness, adversarial = find_reported_tables("SynCo-v2", "Swin-T")
    assert knn.values == {"k10": "69.28", "k20": "68.72", "k100": "65.24", "k200": "63.17"}
    assert (robustness.number, robustness.values["IN"], robustness.values["IN-O (FPR95)"]) == (13, "75.4", "77.6")
    assert (adversarial.number, adversarial.values["C&W"], adversarial.values["OnePixel"]) == (14, "29.7", "74.4")


def test_each_table_stands_under_its_number():
    text = find_reported_markdown("BYOL", "DeiT-S")
    assert text.index("Table 12") < text.index("| 62.53 | 62.43 | 60.49 | 59.12 |") < text.index("Table 13")
    assert "lower is better" in text


@pytest.mark.parametrize("row", [("SynCo", "DeiT-S"), ("SynCo-v2", "ViT-B")])
def test_what_the_paper_does_not_report_is_an_error(row):
    with pytest.raises(ValueError, match="Table 12 of the paper has no row"):
        find_reported_tables(*row)


def test_what_a_run_began_with_is_named_and_a_repository_links():
    start = {
        **{"base_model": "me/first", "kind": "hub", "revision": "abc", "licence": "cc-by-nc-4.0", "image_size": 96},
        **{"weights": "0f1e", "positions": "interpolated from 12 x 12", "preprocessing": "resize, crop"},
        "carried_over": {"backbone": 150, "projector": 6},
        "dropped": [{"what": "classifier", "reason": "it reads labels", "tensors": ["head.weight"]}],
        "pretraining": {"method": "moby", "epochs": None},
    }
    card = render_card(
        "my-vit", config_of(), {"start": start, "flags": ["--x"], "domains": {"new": "/a"}}, [], CardFacts()
    )
    assert card.data.base_model == "me/first"
    assert "Continued from me/first (abc; licence: cc-by-nc-4.0)." in card.content
    for row in (
        *("| started from | me/first |", "| its revision | abc |", "| its licence | cc-by-nc-4.0 |"),
        *("| its image size in pixels | 96 |", "| its position embedding | interpolated from 12 x 12 |"),
        *("| tensors carried over | backbone 150, projector 6 |", "| left out | classifier (it reads labels) |"),
        *("| hash of its weights | 0f1e |", "| its own pretraining | method moby |"),
    ):
        assert row in card.content
    assert "start." not in card.content
    assert "domains" not in card.content
    local = render_card("my-vit", config_of(), {"start": start | {"kind": "directory"}}, [], CardFacts())
    assert local.data.base_model is None


def test_an_average_names_both_its_ends_in_words():
    ends = [{"base_model": name, "revision": "r", "licence": None, "weights": name * 2} for name in ("a", "b")]
    card = render_card(
        "m", config_of(), {"start": ends[0], "end": ends[1], "recommended": {"share": 0.5}}, [], CardFacts()
    )
    for row in ("| started from | a |", "| averaged with | b |", "| recommended.share | 0.5 |"):
        assert row in card.content
    assert "end." not in card.content


@pytest.mark.parametrize(
    "place", ["/home/xaverius/pictures/birds", "~/birds", "../xaverius/birds", "C:\\Users\\xaverius\\birds"]
)
def test_a_folder_of_somebodys_computer_is_named_without_its_place(place):
    data = {"name": place, "source": place, "split": "train", "num_images": 57}
    start = {"base_model": place, "licence": None, "revision": "none: a local directory"}
    card = render_card("m", config_of(), {"data": data, "start": start}, (), CardFacts())
    assert "birds, 57 images, without labels." in card.content
    assert "Continued from birds (" in card.content
    assert "xaverius" not in card.content
