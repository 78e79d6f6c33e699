"""`synco_hub.cli.list_models` by the command line, as a user calls it."""

import json
import shutil

from command_line import invoke

from synco_hub.zoo import EMBEDDED, ZOO


def test_json_has_every_row_with_how_to_obtain_it(monkeypatch, tmp_path):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path))
    rows = json.loads(invoke(["list", "--json"]).output)
    assert [row["name"] for row in rows] == list(ZOO)
    assert all(row["how_to_obtain"] and row["installed"] is None for row in rows)
    lines = invoke(["list"]).output.splitlines()
    assert len(lines) == len(ZOO)
    for name, row in ZOO.items():
        line = next(line for line in lines if line.startswith(f"{name} "))
        assert ("ships with the package; measured: k-NN" in line) is (row.weights is not None)


def test_what_is_installed_in_place_of_a_shipped_one_has_not_its_numbers(monkeypatch, tmp_path):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path))
    shipped, mine = EMBEDDED / "moby-vit-nano", tmp_path / "checkpoints" / "moby-vit-nano"
    shutil.copytree(shipped, mine)
    same = next(line for line in invoke(["list"]).output.splitlines() if line.startswith("moby-vit-nano"))
    assert f"installed: {mine}; measured: k-NN" in same
    shutil.copyfile(EMBEDDED / "byol-vit-nano" / "model.safetensors", mine / "model.safetensors")
    other = next(line for line in invoke(["list"]).output.splitlines() if line.startswith("moby-vit-nano"))
    assert other.endswith(f"installed in place of the one that ships: {mine}")
    row = {row["name"]: row for row in json.loads(invoke(["list", "--json"]).output)}["moby-vit-nano"]
    assert (row["weights"], row["measured"], row["results"]) == (None, {}, {})
    assert (row["installed"], row["embedded"]) == (str(mine), str(shipped))
