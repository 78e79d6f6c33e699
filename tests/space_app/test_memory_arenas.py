"""glibc's own report says how many arenas a process with many threads has."""

import os
import subprocess
import sys

import pytest

from space_app.memory_arenas import limit_arenas

# Every thread holds memory while the next ones ask for some, so that each would get an arena of its own.
PROGRAM = """
import ctypes, re, sys, tempfile, threading
from space_app.memory_arenas import limit_arenas
done = limit_arenas() if sys.argv[1] == "limited" else False
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
everybody = threading.Barrier(12)
def hold():
    held = [libc.malloc(4096) for _ in range(100)]
    everybody.wait()
    for piece in held:
        libc.free(piece)
threads = [threading.Thread(target=hold) for _ in range(12)]
for thread in threads: thread.start()
for thread in threads: thread.join()
libc.fopen.restype, libc.fopen.argtypes = ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_char_p]
libc.malloc_info.argtypes, libc.fclose.argtypes = [ctypes.c_int, ctypes.c_void_p], [ctypes.c_void_p]
with tempfile.NamedTemporaryFile() as report:
    stream = libc.fopen(report.name.encode(), b"w")
    libc.malloc_info(0, stream)
    libc.fclose(stream)
    print(done, len(re.findall(r"<heap nr=", report.read().decode())))
"""

glibc = pytest.mark.skipif(
    sys.platform != "linux" or not os.confstr("CS_GNU_LIBC_VERSION"), reason="arenas are glibc's"
)


def arenas(choice: str, **environment: str) -> tuple[bool, int]:
    clean = {name: value for name, value in os.environ.items() if name not in ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES")}
    command = [sys.executable, "-c", PROGRAM, choice]
    output = subprocess.run(command, env=clean | environment, capture_output=True, text=True, check=True).stdout
    done, number = output.split()
    return done == "True", int(number)


@glibc
def test_threads_share_two_arenas():
    assert arenas("limited") == (True, 2)


@glibc
def test_they_would_have_many():
    assert arenas("unlimited")[1] > 4


@glibc
def test_the_operators_own_choice_stays():
    assert arenas("limited", MALLOC_ARENA_MAX="3") == (False, 3)


def test_elsewhere_nothing_happens(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert limit_arenas() is False
