"""Keeps a server's memory flat: what is freed goes back to the system.

glibc gives every thread that finds the others busy an arena of its own, up to eight a core, and raises the size from
which a piece is mapped on its own whenever such a piece is freed. So arrays of pictures end up between small live
objects in many arenas, and a server whose threads come and go grows, although what its program holds stays the same:
340 MiB, with 32 visitors at once, lay in 800 MiB of arenas after 1,700 answers. With two arenas and every larger piece
on its own, resident memory stayed within 3 % over as many.
"""

from __future__ import annotations

import ctypes
import os
import sys

# Parameters of mallopt, from glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
# glibc's own first value, which is fixed by naming it.
_LARGE_BYTES = 128 * 1024
# Two threads compute at the same time, and each finds an arena free.
_ARENAS = 2


def return_freed_memory() -> bool:
    """Let this process give freed memory back; call it before threads are started.

    Returns:
        Whether it was done: where memory is not glibc's, or the environment says how glibc behaves, nothing is.
    """
    chosen = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if sys.platform != "linux" or chosen:
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = {_M_ARENA_MAX: _ARENAS, _M_MMAP_THRESHOLD: _LARGE_BYTES, _M_TRIM_THRESHOLD: 2 * _LARGE_BYTES}
    return all(mallopt(parameter, value) == 1 for parameter, value in settings.items())
