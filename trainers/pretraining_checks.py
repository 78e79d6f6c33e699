"""What `SynCoTrainer` is given, checked before it fails in words of attributes and shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from synco_hub.data.views.dataset import count_local_views
from synco_hub.models import SynCoModel
from trainers.pretraining_arguments import SynCoTrainingArguments
from trainers.pretraining_model import SynCoForPreTraining

HOW_TO_MEASURE = (
    "pretraining has no labels; measure what it saves by synco_hub.evaluate('knn', model=RUN, dataset=DATA)"
)


def refuse_other_kinds(model: Any, args: Any, further: Mapping[str, Any]) -> None:
    """What would fail later, in words of attributes."""
    if not isinstance(args, SynCoTrainingArguments):
        raise ValueError(
            f"args is {type(args).__name__}: give SynCoTrainingArguments, which takes the same values; defaults, "
            "schedules and momentum of the paper are in it."
        )
    if not isinstance(model, SynCoForPreTraining):
        remedy = "SynCoForPreTraining(config)"
        if isinstance(model, SynCoModel):
            remedy = (
                "pretrainer = SynCoForPreTraining(model.config), and to begin from its weights "
                "pretrainer.synco.load_state_dict(model.state_dict()) and the same for pretrainer.target"
            )
        raise ValueError(
            f"model is {type(model).__name__}, which has no heads, target network and queues: give {remedy}."
        )
    if further.get("eval_dataset") is not None:
        raise ValueError(f"eval_dataset is not used: {HOW_TO_MEASURE}.")


def refuse_small_data(num_images: int, args: SynCoTrainingArguments) -> None:
    """Full batches only (BatchNorm), so there must be one."""
    micro_batch = args.per_device_train_batch_size * args.world_size
    if num_images < micro_batch:
        raise ValueError(
            f"The data set has {num_images} images, fewer than one batch of {micro_batch} over all processes: lower "
            f"--per-device-train-batch-size to at most {num_images // args.world_size}."
        )


def refuse_lone_images(model: SynCoForPreTraining, args: SynCoTrainingArguments) -> None:
    """BatchNorm of the heads has no statistics of one image; on several GPUs it sees those of all processes."""
    seen = args.per_device_train_batch_size * (args.world_size if args.device.type == "cuda" else 1)
    if seen == 1 and model.settings.head_norm == "batch":
        raise ValueError(
            "--per-device-train-batch-size 1: BatchNorm of the heads needs at least 2 images at once; give 2 or more, "
            "with --gradient-accumulation-steps for larger steps, or --head-norm none."
        )


def refuse_local_views(views: Any, model: SynCoForPreTraining) -> None:
    """Small views that are none, or that the network cannot cut into patches."""
    if not count_local_views(views):
        return
    config, size = model.config, views.transform.parameters.local_size
    side, patch = config.image_size, config.patch_size
    fitting = max(side // 2 // patch, 1) * patch
    if size > side:
        raise ValueError(
            f"--local-size {size}: small views are smaller than the views of {side} pixels: give {fitting}."
        )
    if size % patch:
        raise ValueError(
            f"--local-size {size} is no whole number of patches of {patch} pixels: give a multiple, such as {fitting}."
        )
