"""Whatever fails becomes one sentence, what nobody foresaw is logged and not shown; the Space's header fits the app.

The launched app is tested in test_server.py.
"""

import logging
import socket
from pathlib import Path

import gradio as gr
import pytest
import yaml

from space_app import app
from space_app.app import explain_error, show_errors


def test_a_value_error_explains_itself_and_another_is_named_only(caplog):
    assert explain_error(ValueError("width 3 is too small: use 8")) == "width 3 is too small: use 8"
    assert caplog.records == []
    with caplog.at_level(logging.ERROR):
        said = explain_error(RuntimeError("/secret/path is broken"))
    assert "RuntimeError" in said
    assert "/secret" not in said
    assert caplog.records[0].exc_info[0] is RuntimeError


def test_the_only_exception_is_the_visible_one():
    own = gr.Error("as it is")

    @show_errors
    def fail(error: Exception | None) -> str:
        """Keeps its words."""
        if error is not None:
            raise error
        return "well"

    assert fail(None) == "well"
    assert (fail.__name__, fail.__doc__) == ("fail", "Keeps its words.")
    with pytest.raises(gr.Error) as caught:
        fail(own)
    assert caught.value is own
    for error, words in [(ValueError("too small"), "too small"), (KeyError("x"), "unexpected")]:
        with pytest.raises(gr.Error, match=words) as caught:
            fail(error)
        assert caught.value.title == "That did not work"
        assert caught.value.print_exception is False
        assert caught.value.__suppress_context__


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
    assert "MALLOC_ARENA_MAX" in text
    assert "ten minutes" in text
    assert (root / "requirements.txt").read_text(encoding="utf-8").split()[0].startswith("synco-hub[space]")


def test_what_cannot_be_offered_and_a_port_in_use_are_one_line(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path))
    for name, words in (("nomodel", "is neither a directory, nor installed"), ("byol-swin-t", "Three ways to get it")):
        monkeypatch.setattr(app.tempfile, "tempdir", None)  # a page that ends takes its process with it
        with pytest.raises(SystemExit) as left:
            app.main(["--models", name])
        said = capsys.readouterr().err
        assert left.value.code == 1
        assert words in said
        assert said.count("\n") == 1
    monkeypatch.setattr(app.tempfile, "tempdir", None)
    with socket.socket() as used:
        used.bind(("127.0.0.1", 0))
        used.listen()
        port = used.getsockname()[1]
        with pytest.raises(SystemExit):
            app.main(["--port", str(port)])
    assert f"error: --port {port}: in use on 127.0.0.1" in capsys.readouterr().err.splitlines()[-1]
