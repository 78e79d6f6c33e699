"""`synco_hub.cli.pull` by the command line, as a user calls it."""

import json

import pytest
from typer.testing import CliRunner

from synco_hub.cli.main import app
from synco_hub.hub import pull as pulling
from synco_hub.models import SynCoConfig, SynCoModel


def test_pull_and_list_say_where_a_checkpoint_comes_from(hub_api, tmp_path, monkeypatch):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(pulling, "HfApi", lambda: hub_api)
    SynCoModel(SynCoConfig(backbone="vit-nano")).save_pretrained(tmp_path / "run")
    hub_api.create_repo("tester/mine")
    commit = hub_api.upload_folder(repo_id="tester/mine", folder_path=tmp_path / "run").oid
    arguments = ["pull", "moby-vit-nano", "--from", "tester/mine", "--revision", commit]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.exception
    assert f"from tester/mine at {commit}" in done.output
    assert f"--revision {commit}" in done.output
    rows = {row["name"]: row for row in json.loads(CliRunner().invoke(app, ["list", "--json"]).output)}
    assert (rows["moby-vit-nano"]["source"], rows["moby-vit-nano"]["revision"]) == ("tester/mine", commit)
    shown = next(line for line in CliRunner().invoke(app, ["list"]).output.splitlines() if "moby-vit-nano" in line)
    assert shown.endswith(f"from tester/mine at {commit[:12]}")


@pytest.mark.parametrize("name", ["synco-v2-swin-t", "no-such-name"])
def test_what_is_nowhere_is_an_error(name, tmp_path, monkeypatch):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path))
    done = CliRunner().invoke(app, ["pull", name])
    assert isinstance(done.exception, ValueError)
