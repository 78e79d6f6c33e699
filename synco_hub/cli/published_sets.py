"""Protocols whose published files lie in one folder: which of them can be run there, and by which command."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from synco_hub.evaluation.video_segmentation import RESULT_FILE
from synco_hub.results import EvaluationResult


@dataclass(frozen=True)
class PublishedProtocol:
    """A command of `synco-hub evaluate` and the folders it reads.

    Attributes:
        folders: The archives as they unpack; any one of them is enough.
        flags: Data folder and output folder -> the command's own flags.
        result: The result file inside the output folder.
    """

    folders: tuple[str, ...]
    flags: Callable[[Path, Path], list[str]]
    result: str


def _with_output(command: str) -> Callable[[Path, Path], list[str]]:
    return lambda data, output: [command, "--data-dir", str(data), "--output", str(output / f"{command}.json")]


def _retrieval(name: str) -> PublishedProtocol:
    def flags(data: Path, output: Path) -> list[str]:
        destination = output / f"retrieval-{name}.json"
        return ["retrieval", "--data-dir", str(data), "--dataset", name, "--output", str(destination)]

    return PublishedProtocol((name,), flags, f"retrieval-{name}.json")


ROBUSTNESS_FOLDERS = (
    *("imagenet-c", "imagenet-a", "imagenet-r", "sketch"),
    *(f"imagenetv2-{kind}-format-val" for kind in ("matched-frequency", "threshold0.7", "top-images")),
)
PUBLISHED: dict[str, PublishedProtocol] = {
    "robustness": PublishedProtocol(ROBUSTNESS_FOLDERS, _with_output("robustness"), "robustness.json"),
    "ood": PublishedProtocol(("imagenet-o",), _with_output("ood"), "ood.json"),
    "roxford5k": _retrieval("roxford5k"),
    "rparis6k": _retrieval("rparis6k"),
    "video-segmentation": PublishedProtocol(
        ("DAVIS",),
        lambda data, output: [
            *("video-segmentation", "--data-dir", str(data / "DAVIS"), "--output-dir", str(output / "davis"))
        ],
        f"davis/{RESULT_FILE}",
    ),
    "discovery": PublishedProtocol(("VOCdevkit", "VOC2007"), _with_output("discovery"), "discovery.json"),
}


def run_published(
    model: str, data_dir: Path, output_dir: Path, device: str
) -> tuple[list[EvaluationResult], list[str]]:
    """Run every protocol whose folder is there, each in a process of its own, so that one failure ends only itself.

    Args:
        model: Name of the model.
        data_dir: Folder that holds the unpacked archives.
        output_dir: Where results go.
        device: Where the model runs.

    Returns:
        The results, and why the others are missing.

    Raises:
        FileNotFoundError: If ``data_dir`` is no folder.
    """
    if not data_dir.is_dir():
        raise FileNotFoundError(
            f"--data-dir {data_dir}: no such folder; give the one that holds the unpacked archives."
        )
    results, reasons = [], []
    for name, protocol in PUBLISHED.items():
        if not any((data_dir / folder).is_dir() for folder in protocol.folders):
            reasons.append(f"{name}: no {' or '.join(protocol.folders)} in {data_dir}")
            continue
        output_dir.mkdir(parents=True, exist_ok=True)
        if error := _failure([*protocol.flags(data_dir, output_dir), "--model", model, "--device", device]):
            reasons.append(f"{name}: {error}")
            continue
        results.append(EvaluationResult.load(output_dir / protocol.result))
    return results, reasons


def _failure(flags: Sequence[str]) -> str | None:
    """Run `synco-hub evaluate`; None if it ended well, else the last line it said."""
    command = [sys.executable, "-m", "synco_hub.cli", "evaluate", *flags]
    ended = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    if ended.returncode == 0:
        return None
    said = [line for line in ended.stderr.splitlines() if line.strip()]
    return (said[-1] if said else f"exit code {ended.returncode}").removeprefix("error: ")
