"""A value that a flag cannot take is one line, without the usage."""

import argparse
from dataclasses import dataclass

import pytest

from trainers.runs.flag_parser import FlagParser


@dataclass
class Flags:
    steps: int = 3


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--steps", "three"], r"--steps.*'three'.*--help shows"),
        (["--steps"], r"--steps.*expected one argument.*--help shows"),
    ],
)
def test_an_impossible_value_is_one_line(capsys, flags, message):
    parser = FlagParser(Flags, formatter_class=argparse.HelpFormatter)
    with pytest.raises(ValueError, match=message) as error:
        parser.parse_args_into_dataclasses(flags, look_for_args_file=False)
    assert "\n" not in str(error.value)
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "")


def test_possible_values_are_taken():
    (flags,) = FlagParser(Flags).parse_args_into_dataclasses(["--steps", "7"], look_for_args_file=False)
    assert flags == Flags(7)
