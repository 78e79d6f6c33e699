"""`synco_hub.cli.publish_space` by the command line, as a user calls it."""

import pytest
from typer.testing import CliRunner

from synco_hub.cli.main import app
from synco_hub.hub.publication import publish as publishing


def test_staging_alone_needs_no_hub_and_publishing_asks(tmp_path, hub, hub_api, monkeypatch):
    monkeypatch.setattr(publishing, "HfApi", lambda: hub_api)
    staged = CliRunner().invoke(app, ["publish-space", "--dry-run", "--output", str(tmp_path / "space")])
    assert staged.exit_code == 0, staged.exception
    assert "python app.py" in staged.output
    assert (tmp_path / "space" / "app.py").is_file()
    refused = CliRunner().invoke(app, ["publish-space", "--repo-id", "tester/page"], input="n\n")
    assert isinstance(refused.exception, ValueError)
    assert hub.requests == []
    sent = CliRunner().invoke(app, ["publish-space", "--repo-id", "tester/page", "--yes", "--private"])
    assert sent.exit_code == 0, sent.exception
    assert "published the Space tester/page" in sent.output
    assert hub.store.repositories["space", "tester/page"].private


@pytest.mark.parametrize("arguments", [[], ["--dry-run"], ["--output", "somewhere"]])
def test_where_to_is_asked_for(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["publish-space", *arguments])
    assert "give --repo-id" in str(done.exception)
    assert not list(tmp_path.iterdir())
