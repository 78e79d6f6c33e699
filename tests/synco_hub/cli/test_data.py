import json
from dataclasses import replace

from PIL import Image
from typer.testing import CliRunner

from synco_hub.cli.main import app
from synco_hub.data.catalog import CATALOG


def test_json_has_every_row():
    result = CliRunner().invoke(app, ["data", "list", "--json"])
    rows = {row["name"]: row for row in json.loads(result.output)}
    assert list(rows) == list(CATALOG)
    keys = {"name", "dataset_id", "splits", "num_classes", "counts", "metric", "licence"}
    assert all(keys <= set(row) for row in rows.values())
    flowers = rows["flowers102"]
    assert flowers["splits"] == {"train": ["train", "validation"], "test": ["test"]}
    assert (flowers["counts"], flowers["metric"]) == ({"train": 2040, "test": 6149}, "mean per-class accuracy")
    assert rows["imagenet-100"]["counts"]["train"] == 126689
    assert rows["imagenet-100"]["table_9"]["train"] == 128116


def test_people_read_one_line_a_set_and_the_reason_of_each_difference():
    lines = CliRunner().invoke(app, ["data", "list"]).output.splitlines()
    assert len(lines) == len(CATALOG) + sum(bool(row.difference) for row in CATALOG.values())
    assert next(line for line in lines if line.startswith("imagenet-c ")).endswith("not on the Hub")
    assert any("10 % list" in line for line in lines)


def test_verify_finds_a_removed_image(tmp_path, monkeypatch):
    monkeypatch.setitem(CATALOG, "dtd", replace(CATALOG["dtd"], counts={"train": 2, "test": 2}, num_classes=2))
    for name in ("train/a/1.png", "train/b/1.png", "test/a/1.png", "test/b/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(tmp_path / name)
    command = ["data", "verify", "dtd", "--data-dir", str(tmp_path)]
    whole = CliRunner().invoke(app, command)
    assert (whole.exit_code, whole.output.count("agrees")) == (0, 2)
    (tmp_path / "test/b/1.png").unlink()
    damaged = CliRunner().invoke(app, command)
    assert damaged.exit_code == 1
    assert "DIFFERS  test: 1 images of 2, Table 9 prints 2; 1 classes of 2" in damaged.output
