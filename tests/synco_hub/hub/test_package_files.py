import pytest

from synco_hub.hub.package_files import package_file


def test_the_card_template_is_found_and_a_missing_file_is_an_error():
    assert "card_data" in package_file("model_cards", "card_template.md").read_text()
    with pytest.raises(FileNotFoundError, match="install the package again"):
        package_file("model_cards", "nothing.md")
