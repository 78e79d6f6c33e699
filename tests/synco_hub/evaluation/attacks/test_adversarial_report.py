import pytest

from synco_hub.evaluation.attacks.adversarial_report import (
    accuracy,
    attack_facts,
    attack_metrics,
    is_null,
    missing_note,
    null_note,
)
from synco_hub.evaluation.attacks.attack_settings import ATTACKS
from synco_hub.evaluation.attacks.attacks import AttackedBatch

MOVED = [
    AttackedBatch((0, 1, 2), (True, False, False), (0.1, 0.2, 0.0), (1.0, 2.0, 0.0), 30, 0.5),
    AttackedBatch((3,), (True,), (0.3,), (3.0,), 10, 0.3),
]
STILL = [AttackedBatch((0, 1), (True, True), (0.0, 9e-7), (0.0, 1e-6), 400, 1.0), AttackedBatch((), ())]


def test_numbers_of_an_attack():
    assert accuracy(MOVED) == 50.0
    assert attack_metrics("pgd", MOVED) == {
        "top1_pgd": 50.0,
        "linf_mean_pgd": pytest.approx(0.15),
        "linf_max_pgd": 0.3,
        "l2_mean_pgd": 1.5,
        "l2_max_pgd": 3.0,
        "forwards_per_image_pgd": 10.0,
        "seconds_per_image_pgd": pytest.approx(0.2),
    }
    with pytest.raises(ValueError, match="no image could be read"):
        accuracy([AttackedBatch((), ())])


def test_an_attack_that_did_nothing_has_no_accuracy_but_its_forwards():
    assert is_null(STILL)
    assert not is_null(MOVED)
    metrics = attack_metrics("square", STILL)
    assert "top1_square" not in metrics
    assert metrics["forwards_per_image_square"] == 200.0
    facts = attack_facts(ATTACKS["square"], STILL)
    assert (facts["null"], facts["forwards"], facts["changed images"]) == (True, 400, 0)
    assert attack_facts(ATTACKS["pgd"], MOVED)["changed images"] == 3
    assert "null" not in attack_facts(ATTACKS["pgd"], None)


def test_notes_say_why():
    assert "left all 2 inputs as they were after 400 images forwarded; no" in null_note("square", STILL, STILL)
    assert "early stop can do that" in null_note("cw", STILL, STILL)
    wrong = [AttackedBatch((0, 1), (False, False))]
    assert "no clean image is classified correctly" in null_note("square", STILL, wrong)
    assert missing_note(ATTACKS, list(ATTACKS)) == []
    assert missing_note({"fgsm": ATTACKS["fgsm"], "pgd": ATTACKS["pgd"]}, ["fgsm"]) == ["not finished: pgd"]
