"""`synco_hub.cli.card` by the command line, as a user calls it."""

import json

from typer.testing import CliRunner

from synco_hub.cli.main import app
from synco_hub.models import SynCoConfig, SynCoModel


def test_card_of_a_directory_without_the_word_write(tmp_path):
    SynCoModel(SynCoConfig(backbone="vit-nano")).save_pretrained(tmp_path / "my-vit")
    for arguments in (["--licence", "mit", str(tmp_path / "my-vit")], ["write", str(tmp_path / "my-vit")]):
        done = CliRunner().invoke(app, ["card", *arguments])
        assert done.exit_code == 0, done.exception
        assert "with 0 measured numbers" in done.output
        assert "license: mit" in (tmp_path / "my-vit" / "README.md").read_text()


def test_errors_and_help(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    assert "type 'vit'" in str(CliRunner().invoke(app, ["card", str(tmp_path)]).exception)
    assert "verify" in CliRunner().invoke(app, ["card", "--help"]).output
    assert CliRunner().invoke(app, ["card", "verify", "--help"]).exit_code == 0
