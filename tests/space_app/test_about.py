"""What the page promises is what the app does."""

from pathlib import Path

import yaml

from space_app import app
from space_app.about import ABOUT, INTRODUCTION, UNTRAINED_NOTICE
from space_app.model_cache import _HUB_ID
from space_app.uploaded_image import LARGEST_UPLOAD_BYTES
from synco_hub.cli.main import app as commands


def test_the_promises_about_pictures_are_the_settings():
    assert "deleted after ten minutes" in ABOUT
    assert app._KEPT_SECONDS == 10 * 60
    assert "Uploads end at 20 MB" in ABOUT
    assert LARGEST_UPLOAD_BYTES == 20 * 1024**2


def test_method_licence_and_limits_are_there():
    for heading in ("Method", "What the maps mean", "Limits", "Your pictures", "Licence"):
        assert f"### {heading}" in ABOUT
    assert ABOUT.count("Apache-2.0") == 1
    assert "SynCo-v2" in INTRODUCTION


def test_the_way_to_a_trained_model_exists():
    names = {command.name for command in commands.registered_commands}
    for command in ("demo", "space"):
        assert f"`synco-hub {command}`" in UNTRAINED_NOTICE
        assert command in names
    assert _HUB_ID.fullmatch(UNTRAINED_NOTICE.split("such as `")[1].split("`")[0])


def test_the_header_of_the_space_is_what_the_hub_reads_and_what_is_tested_here():
    root = Path(app.__file__).parent
    _, header, text = (root / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    settings = yaml.safe_load(header)
    assert settings["sdk"] == "gradio"
    assert (root / settings["app_file"]).is_file()
    assert len(settings["short_description"]) <= 60  # the Hub's limit
    assert settings["license"] == "apache-2.0"
    constraints = (root.parent / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert f"gradio=={settings['sdk_version']}" in constraints
    assert "SYNCO_SPACE_MODELS" in text
    assert "ten minutes" in text
    assert (root / "requirements.txt").read_text(encoding="utf-8").split()[0].startswith("synco-hub[space]")
