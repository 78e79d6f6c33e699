"""Protocols of the paper: a frozen model in, an EvaluationResult out; nothing here steps an optimizer."""

from synco_hub.evaluation.knn import DEFAULT_KS, evaluate_knn, evaluate_knn_features, knn_accuracy, usable_ks
from synco_hub.evaluation.measurement import EvaluatedModel, MeasuredSplit, measure_split, model_source
from synco_hub.evaluation.nearest_neighbours import Neighbours, nearest_neighbours

__all__ = [
    "DEFAULT_KS",
    "EvaluatedModel",
    "MeasuredSplit",
    "Neighbours",
    "evaluate_knn",
    "evaluate_knn_features",
    "knn_accuracy",
    "measure_split",
    "model_source",
    "nearest_neighbours",
    "usable_ks",
]
