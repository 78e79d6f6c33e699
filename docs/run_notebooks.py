"""Run the notebooks of docs/notebooks as a reader would, and keep what they print and draw.

Run: python docs/run_notebooks.py [NAME ...]
Each runs from top to bottom in an empty folder, with nothing installed for the zoo and no network; two run at a time,
since most of their time is that of single threads. What goes to standard error, progress bars and notes, is not kept;
neither are the names of kernels and machines.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "docs" / "notebooks"
KERNEL = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
SECONDS = 600
AT_A_TIME = 2
# Python reads it at its start, also that of commands: whoever asks for another host is noted and refused.
_GUARD = """
import os, socket
_look_up = socket.getaddrinfo
def look_up(host, *rest, **more):
    if host in (None, "", "localhost", "127.0.0.1", "::1"):
        return _look_up(host, *rest, **more)
    with open(os.environ["HOSTS_ASKED_FOR"], "a") as file:
        file.write(f"{host}\\n")
    raise socket.gaierror(socket.EAI_NONAME, f"no network here: {host}")
socket.getaddrinfo = look_up
"""


def run_notebook(path: Path, folder: Path) -> tuple[Any, list[str]]:
    """The notebook with new outputs, run in an empty folder; and the hosts that it asked for, in vain.

    Raises `nbclient.exceptions.CellExecutionError` where a cell fails.
    """
    guard, asked = folder / "guard", folder / "hosts"
    for each in (guard, folder / "home", folder / "here"):
        each.mkdir(parents=True)
    (guard / "sitecustomize.py").write_text(_GUARD, encoding="utf-8")
    # No backend of matplotlib: the kernel chooses the one that draws below a cell.
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"} | {
        # As the tests are run: threads that wait for each other's core cost more than they bring.
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "passive",
        "HOSTS_ASKED_FOR": str(asked),
        "HF_HOME": str(folder / "home" / "huggingface"),
        "IPYTHONDIR": str(folder / "home" / "ipython"),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "PYTHONPATH": os.pathsep.join([str(guard), str(ROOT)]),
        "SYNCO_HUB_HOME": str(folder / "home" / "synco_hub"),
    }
    notebook = nbformat.read(path, as_version=4)
    place = {"metadata": {"path": str(folder / "here")}}
    client = NotebookClient(
        notebook,
        timeout=SECONDS,
        kernel_name="python3",
        resources=place,
        record_timing=False,
        coalesce_streams=True,
    )
    client.execute(env=environment)
    return tidy(notebook), asked.read_text(encoding="utf-8").split() if asked.exists() else []


def tidy(notebook: Any) -> Any:
    """Leave out what differs from machine to machine; put the words of a cell beside its pictures."""
    notebook.metadata = nbformat.from_dict(KERNEL)
    for number, cell in enumerate(notebook.cells):
        words = {"alt": cell.metadata.alt} if "alt" in cell.metadata else {}
        cell.id, cell.metadata = f"cell-{number}", nbformat.from_dict(words)
        if cell.cell_type != "code":
            continue
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                output.metadata = nbformat.from_dict(words)
    return notebook


def renew(path: Path) -> str:
    """Run a notebook, save it with its outputs, and say how long that took."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        notebook, asked = run_notebook(path, Path(temporary))
    nbformat.write(notebook, path)
    return f"{path.name}: {time.monotonic() - start:.0f} s{f', asked for {asked}' if asked else ''}"


def main() -> None:
    """Run the notebooks that are named, or all, and save them with their outputs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="Beginnings of names, such as 3. Default: all.")
    names = parser.parse_args().names
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    paths = [path for path in sorted(NOTEBOOKS.glob("*.ipynb")) if not names or path.name.startswith(tuple(names))]
    start = time.monotonic()
    with ProcessPoolExecutor(AT_A_TIME) as pool:
        # From the last: later ones have more commands, and a long one should not be left alone at the end.
        for each in as_completed([pool.submit(renew, path) for path in reversed(paths)]):
            logger.info(each.result())
    logger.info("all: %.0f s", time.monotonic() - start)


if __name__ == "__main__":
    main()
