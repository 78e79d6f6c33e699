import json

import httpx
import pytest
from huggingface_hub import get_session
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from synco_hub.hub.client_errors import explain_errors, limit_silence


def answer(status: int) -> HfHubHTTPError:
    response = httpx.Response(status, request=httpx.Request("GET", "http://localhost/"))
    return HfHubHTTPError("first line\nmore", response=response, server_message="said so.")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (answer(503), "pulling a/b: the Hub answered 503 (said so). Repeat."),
        (answer(403), "the Hub refuses this token (403: said so): log in with one that may write there"),
        (
            answer(412),
            "somebody else changed the repository meanwhile (said so): look at it, then repeat.",
        ),
        (OfflineModeIsEnabled("off"), "pulling a/b: HF_HUB_OFFLINE forbids the network: unset it, then repeat."),
        (httpx.ReadError("reset\nby peer"), "the connection failed (ReadError: reset by peer). Repeat."),
        (KeyError("ab12"), "the Hub's answer arrived damaged, 'ab12' is not in it. Repeat."),
        (
            json.JSONDecodeError("Expecting value", "{", 1),
            "the Hub's answer arrived damaged, it is no JSON (Expecting",
        ),
        (RuntimeError(), "the connection failed (RuntimeError: no reason given). Repeat."),
    ],
)
def test_every_failure_is_one_line_that_says_what_to_do(error, line):
    with pytest.raises(OSError, match="pulling a/b") as caught, explain_errors("pulling", "a/b", "Repeat."):
        raise error
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_wrong_value_is_nothing_of_the_connections():
    with pytest.raises(ValueError, match="as it was"), explain_errors("pulling", "a/b", "Repeat."):
        raise ValueError("as it was")


def test_a_limit_of_silence_ends_with_its_context():
    before = get_session().timeout
    with limit_silence(7.0):
        assert get_session().timeout.read == 7.0
    assert get_session().timeout == before
