"""Which network was measured: the hash of its weights, and of the settings that weights do not show."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import nn

from synco_hub.data.image_dataset import fingerprint
from synco_hub.feature_adapter import feature_network

# Where a checkpoint lies and what wrote it changes no number.
_NO_SETTINGS = ("architectures", "auto_map", "dtype", "torch_dtype", "transformers_version", "pretraining")


def model_identity(model: nn.Module) -> dict[str, str]:
    """What two measurements must have in common to be of one model.

    Args:
        model: Any model, with or without a head.

    Returns:
        ``weights``; and ``configuration``: the same weights with another number of heads are another network.
    """
    return {"weights": weights_fingerprint(model), "configuration": fingerprint(_configuration(model))}


def weights_fingerprint(network: nn.Module) -> str:
    """Hash of every parameter and buffer, in the order of their names; another training has another one.

    Args:
        network: Any module with materialised weights.

    Returns:
        16 hexadecimal digits.
    """
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(network.state_dict().items()):
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{name}/{plain.dtype}/{tuple(plain.shape)}".encode())
        # As bytes: numpy has no bfloat16.
        digest.update(plain.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _configuration(model: nn.Module) -> str:
    network = feature_network(model)
    config: Any = getattr(model, "config", None) or getattr(network, "config", None)
    if hasattr(config, "to_diff_dict"):
        settings: dict[str, Any] = config.to_diff_dict()
    else:
        settings = {"timm": (getattr(network, "pretrained_cfg", None) or {}).get("architecture")}
    kept = {key: value for key, value in settings.items() if key not in _NO_SETTINGS and not key.startswith("_")}
    return json.dumps(kept, sort_keys=True, default=str)
