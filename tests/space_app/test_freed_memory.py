"""glibc's own report says in how many arenas a process keeps its memory, and what it maps on its own."""

import ctypes
import os
import subprocess
import sys

import pytest

from space_app import freed_memory
from space_app.freed_memory import return_freed_memory

# Every thread holds memory while the next ones ask for some, so that each would get an arena of its own. Then a large
# piece is freed, after which glibc would no longer map smaller ones on their own.
PROGRAM = """
import ctypes, re, sys, tempfile, threading
from space_app.freed_memory import return_freed_memory
done = return_freed_memory() if sys.argv[1] == "returned" else False
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_void_p], [ctypes.c_size_t]
everybody = threading.Barrier(12)
def hold():
    held = [libc.malloc(4096) for _ in range(100)]
    everybody.wait()
    for piece in held:
        libc.free(piece)
threads = [threading.Thread(target=hold) for _ in range(12)]
for thread in threads: thread.start()
for thread in threads: thread.join()
libc.free(libc.malloc(8 * 2**20))
pieces = [libc.malloc(2**18) for _ in range(64)]
libc.fopen.restype, libc.fopen.argtypes = ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_char_p]
libc.malloc_info.argtypes, libc.fclose.argtypes = [ctypes.c_int, ctypes.c_void_p], [ctypes.c_void_p]
with tempfile.NamedTemporaryFile() as report:
    stream = libc.fopen(report.name.encode(), b"w")
    libc.malloc_info(0, stream)
    libc.fclose(stream)
    text = report.read().decode()
mapped = re.search(r'type="mmap" count="([0-9]+)"', text)
print(done, len(re.findall("<heap nr=", text)), mapped[1])
"""

glibc = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="the report is glibc's")


def memory(choice: str, **environment: str) -> tuple[bool, int, int]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    command = [sys.executable, "-c", PROGRAM, choice]
    output = subprocess.run(command, env=clean | environment, capture_output=True, text=True, check=True).stdout
    done, arenas, mapped = output.split()
    return done == "True", int(arenas), int(mapped)


@glibc
def test_threads_share_two_arenas_and_large_pieces_are_mapped_on_their_own():
    done, arenas, mapped = memory("returned")
    assert done
    assert arenas == 2
    assert mapped >= 48  # of 64: a few fit into what is free


@glibc
def test_glibc_left_alone_does_otherwise():
    _, arenas, mapped = memory("kept")
    assert arenas > 4
    assert mapped < 16


@glibc
def test_the_operators_own_choice_stays():
    done, arenas, _ = memory("returned", MALLOC_ARENA_MAX="3")
    assert not done
    assert arenas == 3


def test_elsewhere_nothing_happens(monkeypatch):
    monkeypatch.setattr(freed_memory.sys, "platform", "darwin")
    assert return_freed_memory() is False
