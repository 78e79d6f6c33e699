"""Whatever fails becomes one sentence; what nobody foresaw is logged and not shown."""

import logging

import gradio as gr
import pytest

from space_app.visible_errors import visible_errors, words_for


def test_a_value_error_explains_itself_and_another_is_named_only(caplog):
    assert words_for(ValueError("width 3 is too small: use 8")) == "width 3 is too small: use 8"
    assert caplog.records == []
    with caplog.at_level(logging.ERROR):
        said = words_for(RuntimeError("/secret/path is broken"))
    assert "RuntimeError" in said
    assert "/secret" not in said
    assert caplog.records[0].exc_info[0] is RuntimeError


def test_the_only_exception_is_the_visible_one():
    own = gr.Error("as it is")

    @visible_errors
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
