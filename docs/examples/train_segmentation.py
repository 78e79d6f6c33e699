"""Semantic segmentation: UperNet on a checkpoint of ours, trained by the stock Trainer.

    python docs/examples/train_segmentation.py --model synco-v2-deit-s --data pictures --output-dir runs/upernet

`--data` is what `synco-hub evaluate segmentation --dataset` takes: a folder with images/train, images/test beside
masks/train, masks/test, or VOC2012 or ADE20K unpacked. Every flag of `TrainingArguments` is taken too.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoImageProcessor,
    EvalPrediction,
    HfArgumentParser,
    Trainer,
    TrainingArguments,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)

from synco_hub.data.masked_images import VOID, MaskedImages
from synco_hub.data.segmentation import load_masked_images
from synco_hub.metrics import class_iou, mean_iou, segmentation_confusion
from synco_hub.models import SynCoBackbone, SynCoConfig
from synco_hub.settings import DatasetChoice


@dataclass
class SegmentationArguments:
    """What is trained on what."""

    model: str = field(metadata={"help": "Short name, directory or Hub id of a checkpoint of ours."})
    data: str = field(metadata={"help": "Folder of images and masks."})
    size: int = field(default=224, metadata={"help": "Side in pixels to which images and masks are resized."})
    hidden_size: int = field(default=256, metadata={"help": "Width of the head."})
    last_block: bool = field(
        default=False,
        metadata={"help": "A ViT's last block at all strides, not four blocks at one each."},
    )
    freeze_backbone: bool = field(default=False, metadata={"help": "Train the head only."})


class ResizedMasks(Dataset[dict[str, torch.Tensor]]):
    """Images and masks at one size; training images are mirrored every other time."""

    def __init__(self, images: MaskedImages, size: int, processor: Any, train: bool) -> None:
        self.images, self.size, self.train = images, size, train
        self.mean, self.std = (
            torch.tensor(each)[:, None, None] for each in (processor.image_mean, processor.image_std)
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        image, mask = self.images.read(index)
        pixels = torch.from_numpy(np.array(image.resize((self.size, self.size)))).permute(2, 0, 1) / 255
        classes = torch.from_numpy(mask)[None, None].float()
        labels = torch.nn.functional.interpolate(classes, (self.size, self.size), mode="nearest-exact")[0, 0].long()
        if self.train and torch.rand(()) < 0.5:
            pixels, labels = pixels.flip(-1), labels.flip(-1)
        return {"pixel_values": (pixels - self.mean) / self.std, "labels": labels}


def build_network(
    model: str, class_names: Sequence[str], hidden_size: int, last_block: bool = False
) -> UperNetForSemanticSegmentation:
    """UperNet whose backbone has the checkpoint's weights."""
    # A Swin's four stages are a pyramid; the maps of a ViT are made one.
    swin = isinstance(AutoConfig.from_pretrained(model).depth, list)
    chosen = {"out_indices": [1, 2, 3, 4]} if swin else {"pyramid": True}
    if last_block:
        chosen = {"pyramid": True, "out_indices": [-1], "apply_layernorm": True}
    backbone = AutoBackbone.from_pretrained(model, **chosen)
    config = UperNetConfig(
        backbone_config=backbone.config,
        hidden_size=hidden_size,
        use_auxiliary_head=False,
        loss_ignore_index=VOID,
        id2label=dict(enumerate(class_names)),
        label2id={name: number for number, name in enumerate(class_names)},
    )
    network = UperNetForSemanticSegmentation(config)
    load_backbone(network, backbone)
    return network


def load_backbone(network: torch.nn.Module, backbone: SynCoBackbone) -> None:
    """Give a head's backbone the checkpoint's weights: built from a config alone they are random, without a word."""
    (own,) = (module for module in network.modules() if isinstance(module, SynCoBackbone))
    own.load_state_dict(backbone.state_dict())


def measure(prediction: EvalPrediction) -> dict[str, float]:
    """Mean IoU at the size of training; `preprocess_logits_for_metrics` has made classes of logits."""
    classes, labels = (torch.as_tensor(each) for each in (prediction.predictions, prediction.label_ids))
    number = int(max(classes.max(), labels[labels != VOID].max())) + 1
    confusion = segmentation_confusion(classes, labels, number)
    return {"miou": 100 * mean_iou(confusion), "miou_without_class_0": 100 * float(class_iou(confusion)[1:].nanmean())}


def main(words: Sequence[str] | None = None) -> dict[str, float]:
    """Train, save, and give the metrics of the test images."""
    parser = HfArgumentParser([SegmentationArguments, TrainingArguments])
    given, training = parser.parse_args_into_dataclasses(list(sys.argv[1:] if words is None else words))
    if given.model.startswith("timm:") or not isinstance(AutoConfig.from_pretrained(given.model), SynCoConfig):
        # Not parser.error: the usage of a hundred flags would come before the line.
        parser.exit(
            2,
            f"error: --model {given.model} is no checkpoint of ours: `synco-hub convert {given.model} --output FOLDER`"
            " makes one of a ViT or Swin of timm's or transformers', whose folder this takes.\n",
        )
    train, test = load_masked_images(DatasetChoice(given.data))
    network = build_network(given.model, train.class_names, given.hidden_size, given.last_block)
    if given.freeze_backbone:
        network.backbone.requires_grad_(False)
    processor = AutoImageProcessor.from_pretrained(given.model)
    trainer = Trainer(
        network,
        training,
        train_dataset=ResizedMasks(train, given.size, processor, train=True),
        eval_dataset=ResizedMasks(test, given.size, processor, train=False),
        compute_metrics=measure,
        preprocess_logits_for_metrics=lambda logits, labels: (
            logits[0] if isinstance(logits, tuple) else logits
        ).argmax(dim=1),
    )
    trainer.train()
    trainer.save_model()
    processor.save_pretrained(training.output_dir)
    metrics: dict[str, float] = trainer.evaluate()
    trainer.save_metrics("eval", metrics)
    return metrics


if __name__ == "__main__":
    main()
