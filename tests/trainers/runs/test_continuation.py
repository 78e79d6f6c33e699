from pathlib import Path

import pytest

from trainers.runs.continuation import refuse_or_warn

FACTS = {
    "global_batch_size": 512,
    "steps_per_epoch": 20,
    "num_images": 10_240,
    "world_size": 4,
    "gradient_accumulation_steps": 1,
    "precision": "bf16",
    "augment_on": "device",
    "versions": {"torch": "2.15"},
}
CHECKPOINT = Path("runs/a/checkpoint-7")


def test_the_same_run_is_continued_without_a_word(caplog):
    refuse_or_warn(CHECKPOINT, FACTS, dict(FACTS))
    assert caplog.text == ""


@pytest.mark.parametrize("name", ["global_batch_size", "steps_per_epoch", "num_images"])
def test_what_position_and_schedules_count_in_is_refused_naming_both(name):
    with pytest.raises(ValueError, match=rf"checkpoint-7.*{name}={FACTS[name]}.*{name}=3.*at 512"):
        refuse_or_warn(CHECKPOINT, FACTS, {**FACTS, name: 3})


def test_another_number_of_processes_with_the_same_global_batch_is_said_but_allowed(caplog):
    refuse_or_warn(CHECKPOINT, FACTS, {**FACTS, "world_size": 2, "gradient_accumulation_steps": 2})
    assert "world_size was 4, is 2" in caplog.text
    assert "gradient_accumulation_steps was 1, is 2" in caplog.text


def test_another_place_of_augmentation_is_said_but_allowed(caplog):
    refuse_or_warn(CHECKPOINT, FACTS, {**FACTS, "augment_on": "worker"})
    assert "augment_on was device, is worker" in caplog.text


def test_other_versions_are_said(caplog):
    refuse_or_warn(CHECKPOINT, FACTS, {**FACTS, "versions": {"torch": "2.11"}})
    assert "torch 2.15 → 2.11" in caplog.text
