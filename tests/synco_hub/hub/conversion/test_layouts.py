import pytest

from synco_hub.hub.card.facts import read_facts, write_facts
from synco_hub.hub.conversion.layouts import LAYOUTS, describe_licence


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_the_card_says_about_the_licence_is_a_whole_facts_file(layout, tmp_path):
    facts = describe_licence(LAYOUTS[layout])
    write_facts(tmp_path / "card_facts.yaml", facts)
    assert read_facts(tmp_path / "card_facts.yaml") == facts
    assert (facts.licence == "other") == (facts.licence_name is not None)
