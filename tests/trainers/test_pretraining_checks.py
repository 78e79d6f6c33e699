"""What a trainer cannot take is said before it starts."""

import pytest
from transformers import TrainingArguments

from synco_hub.models import SynCoConfig, SynCoModel
from trainers import SynCoForPreTraining, SynCoTrainingArguments
from trainers.pretraining_checks import refuse_lone_images, refuse_other_kinds, refuse_small_data

SMALL = {"queue_size": 16, "num_hard_negatives": 4, "projection_hidden_dim": 16, "projection_dim": 8}


@pytest.fixture
def args(tmp_path):
    return SynCoTrainingArguments(str(tmp_path), per_device_train_batch_size=4, use_cpu=True)


def pretrainer(**settings):
    return SynCoForPreTraining(SynCoConfig("vit-nano", depth=1, pretraining={**SMALL, **settings}))


def test_other_kinds(args, tmp_path):
    refuse_other_kinds(pretrainer(), args, {"eval_dataset": None})
    with pytest.raises(ValueError, match="args is TrainingArguments: give SynCoTrainingArguments"):
        refuse_other_kinds(pretrainer(), TrainingArguments(str(tmp_path)), {})
    with pytest.raises(ValueError, match=r"SynCoModel, which has no heads.*load_state_dict"):
        refuse_other_kinds(SynCoModel(SynCoConfig("vit-nano", depth=1)), args, {})
    with pytest.raises(ValueError, match="eval_dataset is not used"):
        refuse_other_kinds(pretrainer(), args, {"eval_dataset": [1]})


def test_fewer_images_than_a_batch(args):
    refuse_small_data(4, args)
    with pytest.raises(ValueError, match=r"3 images, fewer than one batch of 4.* to at most 3"):
        refuse_small_data(3, args)


def test_one_image_at_once(args):
    args.per_device_train_batch_size = 1
    refuse_lone_images(pretrainer(head_norm="none"), args)
    with pytest.raises(ValueError, match="needs at least 2 images at once"):
        refuse_lone_images(pretrainer(), args)
