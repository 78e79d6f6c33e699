from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from synco_hub.errors import FlagError
from synco_hub.flag_parser import FlagParser
from synco_hub.settings import DatasetChoice, KnnSettings, repeated, setting


@dataclass(frozen=True)
class Options:
    place: Path = setting(MISSING, "Where.", positional=True)
    origin: str | None = setting(None, "From where.", spelled="from", metavar="ORG/NAME")
    as_json: bool = setting(False, "As JSON.", spelled="json")
    paper: bool = setting(True, "With the paper.")
    kind: Literal["a", "b"] = setting("a", "Which.")
    scale: list[float] | None = repeated("Factors of 100 %% and more.")
    share: float | None = setting(None, "Share.")
    top_k: int = setting(1, "Number.")
    progress: bool = setting(True, "Bar.", flag=False)

    def __post_init__(self) -> None:
        if self.share is not None and self.share > 1:
            raise ValueError(f"--share {self.share}: give at most 1")


def parse(*words, **options):
    (parsed,) = FlagParser((Options,), **options).parse(words)
    return parsed


def test_defaults_are_those_of_the_dataclass():
    assert parse("x") == Options(Path("x"))


def test_a_flag_without_a_value_leaves_the_argument_behind_it():
    assert parse("--json", "x", "--from", "a/b") == Options(Path("x"), origin="a/b", as_json=True)
    assert not parse("--no-paper", "x").paper
    assert parse("--paper", "x").paper


def test_several_values_come_at_once_or_one_by_one():
    assert parse("x", "--scale", "1", "0.5").scale == [1.0, 0.5]
    assert parse("x", "--scale", "1", "--scale=0.5", "--scale", "2", "3").scale == [1.0, 0.5, 2.0, 3.0]
    assert parse("x").scale is None


@dataclass(frozen=True)
class Several:
    paths: list[Path] = setting(MISSING, "At least one.", positional=True)


@dataclass(frozen=True)
class MaybeOne:
    place: str = setting("here", "Where.", positional=True)


def test_positional_arguments_are_one_several_or_left_out():
    assert FlagParser((Several,)).parse(["a", "b"]) == (Several([Path("a"), Path("b")]),)
    with pytest.raises(FlagError, match="required: PATHS"):
        FlagParser((Several,)).parse([])
    assert FlagParser((MaybeOne,)).parse([]) == (MaybeOne("here"),)
    assert FlagParser((MaybeOne,)).parse(["there"]) == (MaybeOne("there"),)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "required: PLACE"),
        ([], "PLACE [--flag value ...]."),
        (["--place", "x"], "--place: PLACE is written without a flag; --help shows every flag"),
        (["--place=x", "--json"], "PLACE [--flag value ...]."),
        (["--file", "x"], "Usage: "),
        (["x", "y"], "y: not understood"),
        (["x", "--sca", "1"], "--sca, 1: not understood"),
        (["x", "--kind", "c"], "invalid choice: 'c'"),
        (["x", "--top_k", "c"], "argument --top-k: invalid int value"),
        (["x", "--share", "2"], "--share 2.0: give at most 1"),
        (["x", "--json=1"], "ignored explicit argument"),
        (["x", "--progress"], "--progress: not understood"),
        (["x", "--papr"], "what it takes. Did you mean '--paper'"),
        (["x", "--shar=1"], "what it takes. Did you mean '--share'"),
        (["x", "--origin", "a"], "--origin, a: not understood"),
        (["x", "--share", "-x"], "A value that begins with a dash is written --share=-VALUE"),
    ],
)
def test_what_does_not_fit_is_one_line(words, said):
    with pytest.raises(FlagError) as caught:
        parse(*words)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_flags_of_another_command_are_handed_on_in_their_order():
    options, rest = FlagParser((Options,)).parse(["x", "--new", "1", "--share", "0.5", "--more=2"], further=True)
    assert (options.share, rest) == (0.5, ["--new", "1", "--more=2"])


def test_some_fields_only_and_other_defaults():
    parser = FlagParser((DatasetChoice,), {DatasetChoice: ("data_dir",)}, {"dataset": "roxford5k"})
    assert parser.parse(["--data-dir", "d"]) == (DatasetChoice("roxford5k", "d"),)
    with pytest.raises(FlagError, match="--dataset, x: not understood"):
        parser.parse(["--dataset", "x"])


def test_a_default_of_the_command_makes_a_necessary_flag_a_free_one():
    assert FlagParser((Options,), defaults={"place": "here"}).parse(["--json"])[0].as_json


def test_the_help_has_each_flag_once_with_its_words_and_paragraphs():
    parser = FlagParser((Options,), prog="do", description="One.\n\nTwo.", epilog="Example:\n\n  do " + "x " * 90)
    text = parser.format_help()
    assert text.startswith("usage: do PLACE [--flag value ...]\n\nOne.\n\nTwo.\n")
    assert "--from ORG/NAME" in text
    assert "--paper, --no-paper" in text
    assert "--json" in text
    assert "_json" not in text
    assert "--kind {a,b}" in text
    assert "(default: a)" in text
    assert "100 %" in text
    assert "do " + "x " * 89 + "x" in text


def test_the_settings_of_a_protocol_are_its_flags():
    settings, data = FlagParser((KnnSettings, DatasetChoice)).parse(["--k", "3", "--k", "5", "--train_fraction=0.1"])
    assert (settings, data) == (KnnSettings(k=[3, 5], train_fraction=0.1), DatasetChoice())


def test_what_turns_a_flag_off_says_so():
    @dataclass
    class Loading:
        keep_workers: bool = field(default=True, metadata={"help": "Keep workers."})

    text = FlagParser((Loading,)).format_help()
    assert text.count("Keep workers.") == 1
    assert "Turns --keep-workers off." in text
