"""SimCLR's lists of 1 % and 10 % of ImageNet's training images: downloaded once, kept whole, checked by their length.

Source: google-research/simclr, imagenet_subsets; the paper's low-shot measurements read the same lists.
"""

from __future__ import annotations

import os
import urllib.request
from pathlib import Path

from synco_hub.atomic_write import atomic_write
from synco_hub.data.cache_directory import data_cache_directory

LINES = {1: 12811, 10: 128116}
URL_VARIABLE = "SYNCO_HUB_IMAGENET_SUBSETS_URL"
DEFAULT_URL = "https://raw.githubusercontent.com/google-research/simclr/master/imagenet_subsets"
_LARGEST = 16 << 20
_TIMEOUT_S = 30


def low_shot_list(percent: int, cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """The file with the names of 1 % or 10 % of ImageNet's training images, downloaded if it is not there.

    Args:
        percent: 1 or 10.
        cache_dir: Where it is kept; None takes the package's own folder.

    Returns:
        A file of one `<wnid>_<number>.JPEG` a line.

    Raises:
        ValueError: If there is no such list, it cannot be downloaded, or what arrives is not all of it; nothing is
            kept then.
    """
    if percent not in LINES:
        raise ValueError(f"{percent} % of ImageNet: there are lists of {' and '.join(map(str, LINES))} %.")
    path = data_cache_directory(cache_dir) / "imagenet_subsets" / f"{percent}percent.txt"
    if not path.is_file():
        content = _downloaded(f"{os.environ.get(URL_VARIABLE, DEFAULT_URL).rstrip('/')}/{path.name}")
        _check(content, percent, "the download")
        with atomic_write(path) as temporary:
            temporary.write_bytes(content)
    _check(path.read_bytes(), percent, str(path))
    return path


def _downloaded(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
            content: bytes = answer.read(_LARGEST + 1)
            promised = answer.headers.get("Content-Length")
    # A cut connection is an IncompleteRead of http.client, which is no OSError.
    except Exception as error:
        raise ValueError(
            f"{url}: the list cannot be downloaded ({type(error).__name__}: {error}); check the connection, name "
            f"another address in {URL_VARIABLE}, or give the list itself with --train-list."
        ) from error
    if promised is not None and len(content) != int(promised):
        raise ValueError(f"{url}: {len(content)} of {promised} bytes arrived; try again, nothing was kept.")
    return content


def _check(content: bytes, percent: int, where: str) -> None:
    lines = {line.strip() for line in content.decode("utf-8", "replace").splitlines() if line.strip()}
    if len(lines) != LINES[percent] or not all(_is_training_image(line) for line in lines):
        raise ValueError(
            f"{where}: {len(lines)} image names, where SimCLR's list of {percent} % has {LINES[percent]}; remove it "
            "and try again, or give the list with --train-list."
        )


def _is_training_image(line: str) -> bool:
    """An `n`, eight digits, `_`, a number, `.JPEG`."""
    wnid, _, number = line.removesuffix(".JPEG").partition("_")
    return line.endswith(".JPEG") and len(wnid) == 9 and wnid[0] == "n" and (wnid[1:] + number).isdecimal()
