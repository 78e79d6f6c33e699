"""What a run that goes on from weights can be told, and does otherwise where nothing is said.

Nothing here imports torch, so that `--help` answers at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from synco_hub.settings import setting

# Found by trying (`tests/benchmarks/continued_pretraining.py` asks it of several seeds): the demonstration's network
# after 300 steps of fractals, 150 of Fashion-MNIST, seed 0; k-NN top-1 of new / old domain against the start's, one
# standard error about 1. The rate of random weights: -2.4 / -8.9; a third: 0.0 / -6.2; a tenth: +1.7 / -7.6, with 10 %
# frozen +1.5 / -6.3, with a layer decay of 0.75 +0.7 / -3.8, with both +0.8 / -2.1. Scratch, 450 steps: +2.8 / -6.9.
START_RATE_FACTOR = 0.1
START_LAYER_DECAY = 0.75
START_FROZEN_FRACTION = 0.1


@dataclass(frozen=True)
class StartArguments:
    """Which weights a run begins with, in place of random ones."""

    _argument_group_name: ClassVar[str] = "start"

    start_from: str | None = setting(
        None,
        "Go on pretraining a ViT or Swin: short name, checkpoint or run directory, file of weights, Hub id or "
        "timm:<name>. The network is its own; --image-size and --window-size interpolate its positions.",
    )
    save_average: bool = field(
        default=False,
        metadata={
            "help": "At the end look for weights between start and end, as `synco-hub average` does, in "
            "OUTPUT_DIR/average; needs --keep-dataset."
        },
    )
    start_revision: str | None = setting(None, "Commit, branch or tag of --start-from on the Hub.")

    def __post_init__(self) -> None:
        if self.save_average and self.start_from is None:
            raise ValueError("--save-average is for --start-from: add that, or leave it out.")
        if self.start_revision is not None and self.start_from is None:
            raise ValueError(f"--start-revision {self.start_revision} is for --start-from: add that, or leave it out.")


@dataclass
class ContinuationOptions:
    """How gently weights that are good already are moved."""

    layer_decay: float | None = setting(
        None,
        "Each block's rate over that of the one above it; heads have the full rate. Default: "
        f"{START_LAYER_DECAY:g} with --start-from, else 1.",
    )
    freeze_backbone_epochs: float | None = setting(
        None,
        "First epochs in which heads alone learn; then the backbone's rate warms up. Default: "
        f"{START_FROZEN_FRACTION:.0%} of the run where --start-from brings no heads, else 0.".replace("%", "%%"),
    )


def check_layer_decay(layer_decay: float | None) -> None:
    """Refuses what would be no decay."""
    if layer_decay is not None and not 0 < layer_decay <= 1:
        raise ValueError(f"--layer-decay {layer_decay:g}: give a number above 0 and up to 1, which is off.")
