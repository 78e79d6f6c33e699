import pytest

from synco_hub.hub.card.reported_numbers import reported_markdown, reported_tables


def test_numbers_of_the_paper_by_hand():
    knn, robustness, adversarial = reported_tables("SynCo-v2", "Swin-T")
    assert knn.values == {"k10": "69.28", "k20": "68.72", "k100": "65.24", "k200": "63.17"}
    assert (robustness.number, robustness.values["IN"], robustness.values["IN-O (FPR95)"]) == (13, "75.4", "77.6")
    assert (adversarial.number, adversarial.values["C&W"], adversarial.values["OnePixel"]) == (14, "29.7", "74.4")


def test_each_table_stands_under_its_number():
    text = reported_markdown("BYOL", "DeiT-S")
    assert text.index("Table 12") < text.index("| 62.53 | 62.43 | 60.49 | 59.12 |") < text.index("Table 13")
    assert "lower is better" in text


@pytest.mark.parametrize("row", [("SynCo", "DeiT-S"), ("SynCo-v2", "ViT-B")])
def test_what_the_paper_does_not_report_is_an_error(row):
    with pytest.raises(ValueError, match="Table 12 of the paper has no row"):
        reported_tables(*row)
