"""`synco_hub.cli.list_models` by the command line, as a user calls it."""

import json

from command_line import invoke

from synco_hub.zoo import ZOO


def test_json_has_every_row_with_how_to_obtain_it(monkeypatch, tmp_path):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path))
    rows = json.loads(invoke(["list", "--json"]).output)
    assert [row["name"] for row in rows] == list(ZOO)
    assert all(row["how_to_obtain"] and row["installed"] is None for row in rows)
    assert invoke(["list"]).output.count("\n") == len(ZOO)
