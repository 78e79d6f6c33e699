"""Metrics as pure functions of tensors, arguments in the order ``(scores, targets)``.

They return fractions in [0, 1]; the results of :mod:`synco_hub.evaluation` state them in percent.
"""

from synco_hub.metrics.accuracy import (
    check_label_range,
    hits_any_target,
    mean_per_class_accuracy,
    mean_per_class_share,
    target_ranks,
    top_k_accuracy,
)
from synco_hub.metrics.average_precision import (
    OperatingPoints,
    average_precision,
    operating_points,
    voc_average_precision_11_point,
)
from synco_hub.metrics.calibration import Reliability, measure_reliability, negative_log_likelihood
from synco_hub.metrics.correct_localization import box_overlap, correct_localization
from synco_hub.metrics.corruption_error import ALEXNET_ERRORS, corruption_error, mean_corruption_error
from synco_hub.metrics.detection_rates import area_under_roc, fpr_at_recall
from synco_hub.metrics.mean_iou import class_iou, mean_iou, segmentation_confusion
from synco_hub.metrics.revisited_average_precision import revisited_average_precision, revisited_precision_at_k
from synco_hub.metrics.video_segmentation import (
    BOUNDARY_TOLERANCE,
    SequenceStatistics,
    contour_accuracy,
    region_similarity,
    sequence_statistics,
)
from synco_hub.metrics.weighted_knn_vote import weighted_knn_vote, weighted_knn_votes

__all__ = [
    "ALEXNET_ERRORS",
    "BOUNDARY_TOLERANCE",
    "OperatingPoints",
    "Reliability",
    "SequenceStatistics",
    "area_under_roc",
    "average_precision",
    "box_overlap",
    "check_label_range",
    "class_iou",
    "contour_accuracy",
    "correct_localization",
    "corruption_error",
    "fpr_at_recall",
    "hits_any_target",
    "mean_corruption_error",
    "mean_iou",
    "mean_per_class_accuracy",
    "mean_per_class_share",
    "measure_reliability",
    "negative_log_likelihood",
    "operating_points",
    "region_similarity",
    "revisited_average_precision",
    "revisited_precision_at_k",
    "segmentation_confusion",
    "sequence_statistics",
    "target_ranks",
    "top_k_accuracy",
    "voc_average_precision_11_point",
    "weighted_knn_vote",
    "weighted_knn_votes",
]
