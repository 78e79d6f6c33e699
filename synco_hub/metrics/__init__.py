"""Metrics as pure functions of tensors, arguments in the order ``(scores, targets)``.

They return fractions in [0, 1]; the results of :mod:`synco_hub.evaluation` state them in percent.
"""

from synco_hub.metrics.average_precision import average_precision, voc_average_precision_11_point
from synco_hub.metrics.corruption_error import ALEXNET_ERRORS, corruption_error, mean_corruption_error
from synco_hub.metrics.detection_rates import area_under_roc, fpr_at_recall
from synco_hub.metrics.mean_per_class_accuracy import mean_per_class_accuracy, mean_per_class_share
from synco_hub.metrics.operating_points import OperatingPoints, operating_points
from synco_hub.metrics.top_k_accuracy import check_label_range, target_ranks, top_k_accuracy
from synco_hub.metrics.weighted_knn_vote import weighted_knn_vote, weighted_knn_votes

__all__ = [
    "ALEXNET_ERRORS",
    "OperatingPoints",
    "area_under_roc",
    "average_precision",
    "check_label_range",
    "corruption_error",
    "fpr_at_recall",
    "mean_corruption_error",
    "mean_per_class_accuracy",
    "mean_per_class_share",
    "operating_points",
    "target_ranks",
    "top_k_accuracy",
    "voc_average_precision_11_point",
    "weighted_knn_vote",
    "weighted_knn_votes",
]
