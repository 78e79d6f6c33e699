"""What the Hub's client reports, in one line that says what to do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import get_session
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

# Without them the client waits for ever on a Hub that has taken the connection and does not answer.
ANSWER_SECONDS = 30.0
COMMIT_SECONDS = 120.0
_LOGIN = "`hf auth login`, or the variable HF_TOKEN"


@contextmanager
def limit_silence(seconds: float) -> Iterator[None]:
    """Let no request of the client wait longer for its next bytes, unless it has a limit of its own."""
    session = get_session()
    before = session.timeout
    session.timeout = seconds
    try:
        yield
    finally:
        session.timeout = before


@contextmanager
def explain_errors(action: str, repo_id: str, afterwards: str) -> Iterator[None]:
    """Within this context a failure of the Hub or of the connection becomes one `OSError` that says what to do."""
    try:
        yield
    except json.JSONDecodeError as error:
        raise OSError(
            f"{action} {repo_id}: the Hub's answer arrived damaged, it is no JSON ({error}). {afterwards}"
        ) from error
    except ValueError:
        raise
    except GatedRepoError as error:
        raise OSError(
            f"{action} {repo_id}: access has to be asked for first; accept its conditions on its page, then log in "
            f"({_LOGIN})."
        ) from error
    except RepositoryNotFoundError as error:
        raise OSError(
            f"{action} {repo_id}: there is no such repository, or it is private and the token does not allow it: "
            f"check the name, and log in ({_LOGIN})."
        ) from error
    except RevisionNotFoundError as error:
        raise OSError(
            f"{action} {repo_id}: it has no such revision: give a branch, a tag or a full commit hash."
        ) from error
    except OfflineModeIsEnabled as error:
        raise OSError(f"{action} {repo_id}: HF_HUB_OFFLINE forbids the network: unset it, then repeat.") from error
    except HfHubHTTPError as error:
        raise OSError(f"{action} {repo_id}: {_of_status(error)} {afterwards}") from error
    except KeyError as error:  # the client looks up in an answer what is not in it
        raise OSError(
            f"{action} {repo_id}: the Hub's answer arrived damaged, {error} is not in it. {afterwards}"
        ) from error
    except Exception as error:  # the client's transport library differs between versions, and so do its errors
        reason = " ".join(str(error).split()) or "no reason given"
        raise OSError(
            f"{action} {repo_id}: the connection failed ({type(error).__name__}: {reason}). {afterwards}"
        ) from error


def _of_status(error: HfHubHTTPError) -> str:
    status = error.response.status_code if error.response is not None else 0
    said = " ".join((error.server_message or str(error).splitlines()[0]).split()).rstrip(".")
    if status in (401, 403):
        return f"the Hub refuses this token ({status}: {said}): log in with one that may write there ({_LOGIN})."
    if status == 412:
        return f"somebody else changed the repository meanwhile ({said}): look at it, then repeat."
    return f"the Hub answered {status} ({said})."


def refuse_commit_in_name(name: str, remedy: str = "--revision {commit}") -> None:
    """A commit is a flag of its own; behind an @ it would be taken for part of the name."""
    repository, at, commit = name.partition("@")
    if at and not Path(name).exists():
        given = remedy.format(repository=repository, commit=commit)
        raise ValueError(f"{name!r}: a name does not say the commit; give {repository} and {given}.")
