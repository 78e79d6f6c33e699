"""The same flags with the same words wherever a data set is named, and each reaches the reader of data sets."""

import pytest
from command_line import invoke

from synco_hub.cli.main import COMMANDS, build_parser
from synco_hub.settings import DatasetChoice

FLAGS = {"data_dir", "dataset_id", "config", "revision", "image_column", "label_column"}


def flags_of(name):
    return {each.dest: (each.option_strings[-1:], each.default, each.help) for each in build_parser(name)._actions}


@pytest.mark.parametrize("name", ["evaluate knn", "evaluate classification", "data verify", "data prepare"])
def test_every_command_has_them_all_in_the_same_words(name):
    found = flags_of(name)
    for flag in FLAGS:
        options, default, words = found[flag]
        assert options == [f"--{flag.replace('_', '-')}"]
        assert default is None
        assert words == DatasetChoice.__dataclass_fields__[flag].metadata["help"]
        assert words.endswith(".")


@pytest.mark.parametrize("name", ["evaluate knn", "evaluate classification", "ablate"])
def test_the_built_in_images_are_the_default(name):
    assert flags_of(name)["dataset"][1] == "fractals"


def test_no_command_has_a_flag_twice():
    for name, command in COMMANDS.items():
        if command.options:
            flags = [flag for action in build_parser(name)._actions for flag in action.option_strings]
            assert len(flags) == len(set(flags)), name


def test_what_is_given_reaches_the_reader(monkeypatch, tmp_path):
    asked = {}

    def load_dataset(choice, split):
        asked.update(vars(choice))
        raise ValueError("seen")

    monkeypatch.setattr("synco_hub.cli.data.load_dataset", load_dataset)
    given = {name: f"a-{name}" for name in FLAGS} | {"value_range": "0,4095"}
    flags = [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", value)]
    ended = invoke(["data", "prepare", "photographs", "--output", str(tmp_path / "new"), *flags])
    assert str(ended.exception) == "seen"
    assert asked == {**given, "dataset": "photographs", "split_seed": 0}
