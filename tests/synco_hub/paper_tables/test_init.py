import pytest

from synco_hub.paper_tables import read_paper_table
from synco_hub.zoo import ZOO


def test_the_zoo_and_the_tables_agree():
    names = {"SynCo-v2": "synco-v2", "MoBY": "moby", "BYOL": "byol", "DeiT-S": "deit-s", "Swin-T": "swin-t"}
    for row in read_paper_table(12):
        paper = ZOO[f"{names[row['method']]}-{names[row['backbone']]}"].paper
        assert paper["imagenet_knn10_top1"] == float(row["k10"])
        assert paper["imagenet_knn20_top1"] == float(row["k20"])
    for row in read_paper_table(13):
        paper = ZOO[f"{names[row['method']]}-{names[row['backbone']]}"].paper
        assert paper["imagenet_linear_top1"] == float(row["IN"])


@pytest.mark.parametrize("number", range(9, 16))
def test_every_table_is_whole(number):
    rows = read_paper_table(number)
    assert len(rows) >= 2
    assert all(None not in row.values() for row in rows)


def test_unknown_table():
    with pytest.raises(ValueError, match="table 3 is not"):
        read_paper_table(3)
