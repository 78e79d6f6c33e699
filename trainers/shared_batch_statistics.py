"""BatchNorm of the heads over all processes of a step, where the device can."""

from __future__ import annotations

import logging

from torch import nn

from trainers.pretraining_model import SynCoForPreTraining

logger = logging.getLogger(__name__)


def with_shared_batch_statistics(model: SynCoForPreTraining, device_type: str) -> SynCoForPreTraining:
    """Let BatchNorm see the whole batch of a step's micro-batches over all processes, where the device can.

    Args:
        model: Changed in place; its keys stay the same.
        device_type: Only `cuda` has a synchronised BatchNorm; elsewhere each process keeps statistics of its own part.
    """
    if device_type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        logger.warning(
            "BatchNorm of the heads is not synchronised on %s: statistics are of each process's part of the batch.",
            device_type,
        )
    return model
