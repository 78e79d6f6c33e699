"""Models whose names visitors type: asked for as a stranger would, within bounds of size and time, and not kept.

Whoever runs the Space may be logged in to the Hub; what only he can read is not shown to whoever types its name. So
the Hub is asked without a token, and the download runs in a process of its own that knows none and can be ended when
it takes too long. It brings the one revision whose size was looked at into a folder that goes once it is loaded.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants

LARGEST_DOWNLOAD_BYTES = 2 * 1024**3
_ANSWER_SECONDS = 10
_WEIGHTS = "model.safetensors"
# All that is read of a repository: no code, no adapter and no head, which could name another repository.
_FILES = ("config.json", "preprocessor_config.json", "processor_config.json", _WEIGHTS)
# Fields of a configuration that transformers and timm look up on the Hub, with whatever token they find.
_LOOKED_UP = ("backbone", "architecture")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_CREDENTIALS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_XET_CACHE", "HF_HUB_CACHE")
_DOWNLOAD = """
import json, sys
from huggingface_hub import snapshot_download
snapshot_download(**json.loads(sys.argv[1]), token=False)
"""


@contextmanager
def fetch_typed_model(name: str, seconds: float) -> Iterator[Path]:
    """Yield a folder with the files of a public Hub id, and remove it afterwards.

    A ValueError says why the name is none, or the checkpoint is too large, too slow to come, or no single one.
    """
    revision = _check_hub_id(name)
    with tempfile.TemporaryDirectory(prefix="synco-typed-", ignore_cleanup_errors=True) as place:
        folder = Path(place) / "model"
        _download(name, revision, folder, seconds)
        _check_configuration(name, folder)
        yield folder


def _check_hub_id(name: str) -> str:
    """The commit to load; paths, what is no public Hub id, and what is too large are refused before any download."""
    if not _HUB_ID.fullmatch(name) or ".." in name or Path(name).exists():
        raise ValueError(
            f"{name!r} is not a model: choose one from the list, or type a public Hub id like facebook/dino-vits16."
        )
    try:
        info: Any = HfApi(token=False).model_info(name, files_metadata=True, timeout=_ANSWER_SECONDS, token=False)
    except Exception as error:
        # The client raises its own and httpx's errors; for a visitor all of them mean the same.
        raise ValueError(
            f"{name} was not found on the Hub: it does not exist, is private, or the Hub cannot be reached from here."
        ) from error
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or [] if file.rfilename in _FILES}
    if not sizes.get(_WEIGHTS):
        raise ValueError(f"{name} has no model.safetensors: only whole safetensors checkpoints are loaded here.")
    total = sum(sizes.values())
    if total > LARGEST_DOWNLOAD_BYTES:
        raise ValueError(
            f"{name} has {total / 1e9:.1f} GB of weights, the limit here is {LARGEST_DOWNLOAD_BYTES / 1e9:.1f} GB: "
            "choose a smaller checkpoint, or run this Space yourself."
        )
    return str(info.sha)


def _download(name: str, revision: str, folder: Path, seconds: float) -> None:
    """Fetch the files in a process without credentials, which leaves no cache elsewhere."""
    wanted = {"repo_id": name, "revision": revision, "local_dir": str(folder), "allow_patterns": list(_FILES)}
    environment = {key: value for key, value in os.environ.items() if key not in _CREDENTIALS} | {
        "HF_ENDPOINT": constants.ENDPOINT,
        "HF_HOME": str(folder.with_name("home")),
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    try:
        subprocess.run(
            [sys.executable, "-c", _DOWNLOAD, json.dumps(wanted)],
            env=environment,
            check=True,
            timeout=seconds,
            stdin=subprocess.DEVNULL,
            capture_output=True,
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError(
            f"{name} did not arrive within {seconds:g} seconds, the limit here: try again later, or choose a model "
            "from the list."
        ) from error
    except subprocess.CalledProcessError as error:
        raise OSError(f"{name} could not be downloaded: {error.stderr.decode(errors='replace')[-2000:]}") from error


def _check_configuration(name: str, folder: Path) -> None:
    """Refuse a configuration by which loading would fetch another repository: a stranger would choose which."""
    try:
        configuration = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise OSError(f"{name} has no config.json that can be read") from error
    for key, value in _walk(configuration):
        if key in _LOOKED_UP and isinstance(value, str) and re.search(r"[/:\\]", value):
            raise ValueError(
                f"{name} cannot be shown: its config.json takes its {key} from {value!r:.100}, and of a typed model "
                "only its own files are loaded here. Type the name of a model that stands by itself."
            )


def _walk(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key of nested plain data with its value."""
    pairs = value.items() if isinstance(value, dict) else (("", one) for one in value if isinstance(value, list))
    for key, inner in pairs:
        yield key, inner
        if isinstance(inner, (dict, list)):
            yield from _walk(inner)
