"""Which weights: one hash for a network in memory and for the files it was saved to.

A result carries the hash of what was measured, and a card shows a result only where its files have that hash. Values
are compared in single precision, in which every network is measured: what a checkpoint was stored in plays no part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

_DIGEST_BYTES = 8
# Under which classifiers and pretraining states of this package keep their backbone.
_BACKBONE_PREFIX = "synco."


def hash_weights(network: nn.Module) -> str:
    """Hash of every parameter and buffer, in the order of their names; another training has another one.

    Takes about a second a gigabyte.
    """
    digest = _new_digest()
    # What torch.compile wrapped has the names that it had before.
    for name, tensor in sorted(getattr(network, "_orig_mod", network).state_dict().items()):
        _add_tensor([(digest, name)], tensor)
    return digest.hexdigest()


def hash_saved_weights(directory: Path) -> tuple[str, str]:
    """What :func:`hash_weights` gives for the model of a checkpoint directory, and for its backbone alone."""
    places: dict[str, Path] = {}
    for file in sorted(directory.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            places |= dict.fromkeys(tensors.keys(), file)
    if not places:
        raise ValueError(f"{directory} holds no weights in .safetensors: give the directory of a checkpoint.")
    has_heads = any(name.startswith(_BACKBONE_PREFIX) for name in places)
    whole, backbone = _new_digest(), _new_digest()
    for name, file in sorted(places.items()):
        digests = [(whole, name)]
        if not has_heads or name.startswith(_BACKBONE_PREFIX):
            digests.append((backbone, name.removeprefix(_BACKBONE_PREFIX)))
        with safe_open(file, framework="pt") as tensors:
            _add_tensor(digests, tensors.get_tensor(name))
    return whole.hexdigest(), backbone.hexdigest()


def _new_digest() -> Any:
    return hashlib.blake2b(digest_size=_DIGEST_BYTES)


def _add_tensor(digests: Iterable[tuple[Any, str]], tensor: Tensor) -> None:
    plain = tensor.detach().cpu()
    plain = (plain.float() if plain.is_floating_point() else plain).contiguous()
    content = plain.flatten().view(torch.uint8).numpy()
    for digest, name in digests:
        digest.update(f"{name}/{plain.dtype}/{tuple(plain.shape)}".encode())
        digest.update(content)
