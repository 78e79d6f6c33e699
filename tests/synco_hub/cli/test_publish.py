"""`synco_hub.cli.publish` by the command line, as a user calls it."""

import pytest
from typer.testing import CliRunner

from synco_hub.cli.main import app
from synco_hub.hub.card.model_card import refresh_card
from synco_hub.hub.publication import publish as publishing
from synco_hub.models import SynCoConfig, SynCoModel, image_processor


@pytest.fixture
def run(tmp_path):
    SynCoModel(SynCoConfig(backbone="vit-nano")).save_pretrained(tmp_path / "my-vit")
    image_processor(32).save_pretrained(tmp_path / "my-vit")
    return tmp_path / "my-vit"


def invoke(*arguments: str, answer: str = ""):
    return CliRunner().invoke(app, ["publish", *arguments, "--repo-id", "tester/my-vit"], input=answer)


def test_it_shows_what_goes_asks_and_sends(run, hub, hub_api, monkeypatch):
    monkeypatch.setattr(publishing, "HfApi", lambda: hub_api)
    without_licence = invoke(str(run), "--yes")
    assert isinstance(without_licence.exception, ValueError)
    assert "there is no card" in str(without_licence.exception)
    refresh_card(run, "tester/my-vit")
    assert "no licence has been chosen: `synco-hub card" in str(invoke(str(run), "--yes").exception)
    refresh_card(run, licence="apache-2.0")

    dry = invoke(str(run), "--dry-run")
    assert dry.exit_code == 0, dry.exception
    size = (run / "model.safetensors").stat().st_size
    assert f"{size:,}  model.safetensors" in dry.output
    assert hub.requests == []

    for answer in ("n\n", ""):
        refused = invoke(str(run), answer=answer)
        assert isinstance(refused.exception, ValueError)
        assert hub.requests == []

    for arguments, answer in (((str(run), "--private"), "y\n"), ((str(run), "--yes"), "")):
        sent = invoke(*arguments, answer=answer)
        assert sent.exit_code == 0, sent.exception
        assert f"published tester/my-vit at {hub_api.model_info('tester/my-vit').sha}" in sent.output
    assert hub.store.repositories["model", "tester/my-vit"].private
