"""The three objectives in one table: SynCo-v2, MoBY and BYOL (paper section 7.4).

Relations: MoBY compares the prediction of one view with the key of the other among the negatives of a queue; SynCo-v2
adds synthetic negatives made from the hardest of them; BYOL drops the negatives and keeps only the agreement.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Objective:
    """What sets one method apart from the others.

    Attributes:
        has_queue: Whether there are negatives, and so two memory queues.
        synthesises: Whether synthetic hard negatives join them.
        negatives: What a query is compared with, in a word or two.
        source: Where the method is defined.
        drop_path_rate: Stochastic depth of the online encoder (7.4).
    """

    has_queue: bool
    synthesises: bool
    negatives: str
    source: str
    drop_path_rate: float = 0.2


OBJECTIVES: dict[str, Objective] = {
    "synco-v2": Objective(
        has_queue=True,
        synthesises=True,
        negatives="real and synthetic hard negatives",
        source="paper section 7.4, SynCo-v2",
    ),
    "moby": Objective(
        has_queue=True, synthesises=False, negatives="real ones only", source="Xie et al. 2021; paper section 7"
    ),
    "byol": Objective(
        has_queue=False,
        synthesises=False,
        negatives="none",
        source="Grill et al. 2020; paper section 7.4, BYOL",
        drop_path_rate=0.0,
    ),
}


def agreement_loss(prediction: Tensor, key: Tensor) -> Tensor:
    """BYOL's squared distance between unit vectors, half of the mean of 2 − 2·cos over the batch.

    Added over both directions it is ½ · (sum of the two 2 − 2·cos).

    Args:
        prediction: Unit vectors of the online branch. Shape: (batch, dim).
        key: Unit vectors of the target branch. Shape: (batch, dim).

    Returns:
        Shape: ().
    """
    return 1.0 - (prediction * key).sum(dim=1).mean()
