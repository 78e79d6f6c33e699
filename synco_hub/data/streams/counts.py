"""How many rows a local shard holds, without reading its images."""

from __future__ import annotations

import importlib
import os
import tarfile

# A webdataset's own rule: what stands before the first dot of the file name is the sample.
_KEY_ENDS = "."


def rows_of_shard(file: str) -> int | None:
    """Rows of a parquet file (from its footer) or samples of a tar file (from its headers).

    Args:
        file: Path of the shard.

    Returns:
        The number, or None for what is not on the local disk or no such file.

    Raises:
        ValueError: If the file is damaged.
    """
    if not os.path.isfile(file):
        return None
    try:
        if file.endswith(".parquet"):
            # Not at the top: only `datasets` brings it, and folders and fractals must work without.
            metadata = importlib.import_module("pyarrow.parquet").read_metadata(file)
            return int(metadata.num_rows)
        if file.endswith(".tar"):
            return _samples_of_tar(file)
    except (OSError, ValueError, tarfile.TarError) as error:
        raise ValueError(
            f"{file}: a damaged shard ({type(error).__name__}: {' '.join(str(error).split())}); replace it or take "
            "it out of the folder."
        ) from error
    return None


def _samples_of_tar(file: str) -> int:
    samples, last = 0, None
    with tarfile.open(file) as archive:
        for member in archive:
            folder, name = os.path.split(member.name)
            if not member.isfile() or _KEY_ENDS not in name or name.startswith((_KEY_ENDS, "__")):
                continue
            key = os.path.join(folder, name.split(_KEY_ENDS, 1)[0])
            samples, last = samples + (key != last), key
    return samples
