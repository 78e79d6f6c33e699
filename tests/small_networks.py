"""Small networks that several tests build, and Python in which this package cannot be imported."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import torch
from torch import nn

SWIN_V2 = {
    "backbone": "swin-v2-t",
    "embed_dim": 24,
    "depth": [2, 2],
    "num_heads": [2, 4],
    "image_size": 32,
    "patch_size": 2,
    "window_size": 4,
}
BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("synco_hub", "trainers"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocked())
import torch
torch.set_num_threads(1)
"""


def stir(network: nn.Module) -> nn.Module:
    """Noise on every trained weight, so that each matters: initial biases are zero and Swin's tables all but zero."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn_like(parameter)
    return network


def run_without_the_package(script: str, folder: Path, *arguments: Path, **environment: str) -> None:
    """Run Python of a fresh process in `folder`, with caches of its own and no account."""
    path = folder / "script.py"
    path.write_text(BLOCKED + textwrap.dedent(script))
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    own = {"HF_HOME": str(folder / "home"), "HF_MODULES_CACHE": str(folder / "modules"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(path), *map(str, arguments)]
    done = subprocess.run(command, env={**inherited, **own, **environment}, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
