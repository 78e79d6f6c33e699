import pytest

from trainers.classification.metrics import choose_final_metrics, log_metrics

LOG = [
    {"loss": 2.0, "epoch": 0.5},
    {"epoch": 1, "eval_top1_lr1": 10.0, "eval_top1_lr2": 60.0, "eval_top5_lr1": 11.0, "eval_top5_lr2": 61.0},
    {"epoch": 2, "eval_top1_lr1": 40.0, "eval_top1_lr2": 30.0, "eval_top5_lr1": 41.0, "eval_top5_lr2": 31.0},
]


def test_last_epoch_and_best_epoch_are_told_apart():
    metrics, choice = choose_final_metrics(LOG, ["_lr1", "_lr2"], "top1")
    assert metrics == {
        "top1_last_epoch": 40.0,
        "top5_last_epoch": 41.0,
        "top1_best_epoch": 60.0,
        "top5_best_epoch": 61.0,
        "top1_last_epoch_lr1": 40.0,
        "top1_last_epoch_lr2": 30.0,
    }
    assert (choice.classifier, choice.last_epoch, choice.best_epoch) == (0, 2.0, 1.0)


def test_a_single_classifier_is_not_repeated():
    metrics, _ = choose_final_metrics([{"epoch": 3, "eval_map_11_point": 5.0}], [""], "map_11_point")
    assert metrics == {"map_11_point_last_epoch": 5.0, "map_11_point_best_epoch": 5.0}


def test_nothing_measured():
    with pytest.raises(ValueError, match="no epoch was measured"):
        choose_final_metrics(LOG[:1], [""], "top1")


def test_metrics_are_shown_a_line_each(caplog):
    log_metrics({"top1_last_epoch": 25.0, "top5_last_epoch": 50.0})
    assert caplog.messages == [f"  {'top1_last_epoch':<32}  25.00 %", f"  {'top5_last_epoch':<32}  50.00 %"]
