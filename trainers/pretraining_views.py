"""How the views of a run are normalised and finished, and the image processor that says the same of single images."""

from __future__ import annotations

from typing import Any

from transformers import ViTImageProcessor

from synco_hub.data.evaluation_transform import tell_colours
from synco_hub.data.views.dataset import describe_views
from synco_hub.data.views.device_views import DeviceViews, SplitTwoViewTransform
from synco_hub.data.views.parameters import TwoViewParameters
from synco_hub.models import image_processor
from trainers.pretraining_arguments import SynCoTrainingArguments
from trainers.view_settings import ViewArguments


def choose_view_parameters(processor: Any, views: ViewArguments | None = None) -> TwoViewParameters:
    """The paper's views but for what is given, normalised as the network that a run goes on from is used to."""
    changed = {} if views is None else views.changed()
    if processor is None:
        return TwoViewParameters(**changed)
    told = tell_colours(processor)
    if told is None or len(told[0]) != 3:
        raise ValueError(
            f"{type(processor).__name__} of the start does what no view of pretraining can: views have 3 channels, "
            "each less its mean and over its deviation."
        )
    mean, std = ((values[0], values[1], values[2]) for values in told)
    return TwoViewParameters(mean=mean, std=std, **changed)


def build_processor(train_dataset: Any, collate: Any, image_size: int, own: Any = None) -> ViTImageProcessor:
    """What prepares an image as the network is going to see it; its own, where views are normalised like it."""
    size, mean, std = describe_views(train_dataset, collate, image_size)
    if own is not None and size == image_size and (mean, std) == tell_colours(own):
        return own
    processor = image_processor(size)
    processor.image_mean, processor.image_std = list(mean), list(std)
    return processor


def build_device_views(transform: object, args: SynCoTrainingArguments) -> DeviceViews | None:
    """What finishes views on the training device, if the workers only cut them out."""
    if not isinstance(transform, SplitTwoViewTransform):
        return None
    half = transform.device_half().to(args.device)
    if args.torch_compile or args.device.type == "cuda":
        half.compile(backend=args.torch_compile_backend or "inductor")
    return half
