"""The same flags with the same words wherever a data set is named, and each reaches the reader of data sets.

By the command line, as a user calls `synco_hub.cli.dataset_flags`.
"""

import pytest
import typer
from typer.testing import CliRunner

from synco_hub.cli.main import app

FLAGS = {"data_dir", "dataset_id", "config", "revision", "image_column", "label_column"}
COMMANDS = [("evaluate", "knn"), ("evaluate", "classification"), ("data", "prepare")]


def flags_of(group, command):
    parameters = typer.main.get_command(app).commands[group].commands[command].params
    return {each.name: (each.opts, each.default, each.required, each.help) for each in parameters}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_them_all_in_the_same_words(command):
    found = flags_of(*command)
    assert set(found) >= FLAGS
    for name in FLAGS:
        options, default, required, words = found[name]
        assert options == [f"--{name.replace('_', '-')}"]
        assert (default, required) == (None, False)
        assert words == flags_of(*COMMANDS[0])[name][3]
        assert words.endswith(".")


@pytest.mark.parametrize("command", ["knn", "classification"])
def test_the_built_in_images_are_the_default(command):
    assert flags_of("evaluate", command)["dataset"][1] == "fractals"


def test_what_is_given_reaches_the_reader(monkeypatch, tmp_path):
    asked = {}

    def load_dataset(name, split, **choices):
        asked.update(choices, name=name)
        raise ValueError("seen")

    monkeypatch.setattr("synco_hub.data.load_dataset", load_dataset)
    given = {name: f"a-{name}" for name in FLAGS}
    flags = [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", value)]
    ended = CliRunner().invoke(app, ["data", "prepare", "photographs", "--output", str(tmp_path / "new"), *flags])
    assert str(ended.exception) == "seen"
    assert asked == {**given, "name": "photographs", "seed": 0}
