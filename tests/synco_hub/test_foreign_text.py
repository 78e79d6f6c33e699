import random
import sys

import pytest

from synco_hub.foreign_text import listed, shown


def test_usual_names_are_shown_as_they_are():
    for name in ("blocks.0.attn.qkv.weight", "übung (2)", "", 3, None):
        assert shown(name) == str(name)


@pytest.mark.parametrize("bad", ["\x1b[2J", "\n", "\r", "\t", "\x00", "\x9b", "\u202e", "\ud800", "\x7f"])
def test_what_moves_the_cursor_or_turns_the_line_is_written_out(bad):
    assert shown(f"a{bad}b").isprintable()
    assert shown(f"a{bad}b").startswith("a\\")
    assert len(shown(bad * 1000)) <= 121


def test_any_text_becomes_short_and_printable():
    generator = random.Random(0)
    for _ in range(300):
        text = "".join(chr(generator.randrange(sys.maxunicode + 1)) for _ in range(generator.randrange(200)))
        assert shown(text).isprintable()
        assert len(shown(text)) <= 121


def test_of_many_the_first_are_listed():
    assert listed(["a", "b"], 2) == "a, b"
    assert listed(iter("abc"), 2) == "a, b …"
    assert listed([], 2) == ""
