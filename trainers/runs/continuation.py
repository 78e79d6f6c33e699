"""Whether a checkpoint can be continued by this run exactly, in another way, or not at all."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from synco_hub.results import library_versions
from trainers.runs.stream_loading import refuse_other_place

logger = logging.getLogger(__name__)

# What the position in the data and every schedule are counted in: with another value they would mean something else.
COUNTED_IN = ("global_batch_size", "steps_per_epoch", "num_images")
# What leaves position and schedules alone, but not every bit.
LEAVES_BITS = ("world_size", "gradient_accumulation_steps", "precision", "augment_on")


def refuse_or_warn(checkpoint: Path, saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Compare how a checkpoint was made with how it is to be continued.

    Another number of processes is allowed when the images per optimizer step stay the same: order of the data,
    schedules and queues go on as they were; drop path and synthesis then draw other numbers, which is said. A stream
    is shared out among the processes, so there it is allowed at the start of an epoch only.

    Args:
        checkpoint: Where it lies, for the message.
        saved: The facts of its manifest, see `SynCoTrainer.facts`.
        now: The facts of this run.

    Raises:
        ValueError: If the position in the data or a schedule would change its meaning, naming both values.
    """
    for name in COUNTED_IN:
        if saved.get(name) != now.get(name):
            raise ValueError(
                f"{checkpoint} was made with {name}={saved.get(name)} and is now to be continued with "
                f"{name}={now.get(name)}: the position in the data and the schedules count in it. Keep micro-batch × "
                f"processes × accumulation at {saved.get('global_batch_size')} and the same images, or start a new "
                "run."
            )
    refuse_other_place(checkpoint, saved.get("stream"), now.get("stream"))
    others = [f"{name} was {saved.get(name)}, is {now.get(name)}" for name in LEAVES_BITS if _differ(name, saved, now)]
    if others:
        logger.warning(
            "continuing exactly in data and schedules, but not to the last bit, since draws and sums are made in "
            "another order: %s",
            "; ".join(others),
        )
    versions = {**saved.get("versions", {})}
    changed = [f"{name} {old} → {now_version(name, now)}" for name, old in versions.items() if _moved(name, old, now)]
    if changed:
        logger.warning("continuing with other library versions, which may change bits: %s", ", ".join(changed))


def now_version(name: str, now: Mapping[str, Any]) -> str | None:
    """The version of a library in this run's facts."""
    version: str | None = now.get("versions", library_versions()).get(name)
    return version


def _moved(name: str, old: str, now: Mapping[str, Any]) -> bool:
    return now_version(name, now) != old


def _differ(name: str, saved: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    return saved.get(name) != now.get(name)
