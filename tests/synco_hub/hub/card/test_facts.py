import re

import pytest

from synco_hub.hub.card.facts import CardFacts, find_package_file, list_facts, read_facts, read_zoo_facts, write_facts
from synco_hub.paper_tables import read_paper_table
from synco_hub.zoo import ZOO

NAMES = [row.name for row in ZOO.values() if row.paper]


def test_every_checkpoint_of_the_paper_has_facts():
    assert list_facts() == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_facts_say_what_a_card_needs(name):
    facts = read_zoo_facts(name)
    row = ZOO[name]
    assert facts.paper is not None
    assert facts.paper["method"].lower() == row.method
    assert facts.paper["backbone"].lower() == row.backbone
    for text in (facts.title, facts.summary, facts.training_data, facts.recipe, facts.broader_impact):
        assert text
    assert facts.licence or facts.licence_note
    assert len(facts.limits) >= 3
    assert any(f"--recipe {name} " in way for way in facts.how_to_obtain)


@pytest.mark.parametrize("name", NAMES)
def test_no_number_of_the_result_tables_is_typed_into_a_facts_file(name):
    text = find_package_file("model_cards", f"{name}.yaml").read_text()
    numbers = set(re.findall(r"\d\d\.\d+", text))
    printed = {value for number in (12, 13, 14) for row in read_paper_table(number) for value in row.values()}
    # What MoBY's own README reports is a number of another source, which stands beside it.
    assert numbers & printed <= {"75.3", "72.8"}
    assert "README" in text or not numbers & {"75.3", "72.8"}


def test_writing_and_reading_gives_the_same_facts(tmp_path):
    facts = CardFacts(
        title="A: b", licence="mit", limits=("one", "two — three"), paper={"method": "a", "backbone": "b"}
    )
    write_facts(tmp_path / "facts.yaml", facts)
    assert read_facts(tmp_path / "facts.yaml") == facts


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is not YAML"),
        ("- a", "must be a mapping of loaded_by, title"),
        ("licens: mit", "unknown fields licens"),
        ("limits: one", "limits must be a list of texts"),
        ("paper: {method: a}", "paper must have method and backbone"),
        ("title: 3", "title must be a text, not 3"),
        ("licence: ''", "licence must be a text"),
    ],
)
def test_what_is_misspelt_is_refused(text, message, tmp_path):
    (tmp_path / "facts.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_facts(tmp_path / "facts.yaml")
    with pytest.raises(ValueError, match="choose one of byol-deit-s"):
        read_zoo_facts("../card_template")


def test_the_card_template_is_found_and_a_missing_file_is_an_error():
    assert "card_data" in find_package_file("model_cards", "card_template.md").read_text()
    with pytest.raises(FileNotFoundError, match="install the package again"):
        find_package_file("model_cards", "nothing.md")
