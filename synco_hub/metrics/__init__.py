"""Metrics as pure functions of tensors, arguments in the order ``(scores, targets)``.

They return fractions in [0, 1]; the results of :mod:`synco_hub.evaluation` state them in percent.
"""

from synco_hub.metrics.top_k_accuracy import check_label_range, target_ranks, top_k_accuracy
from synco_hub.metrics.weighted_knn_vote import weighted_knn_vote, weighted_knn_votes

__all__ = ["check_label_range", "target_ranks", "top_k_accuracy", "weighted_knn_vote", "weighted_knn_votes"]
