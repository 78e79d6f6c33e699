"""Object detection: Conditional DETR or DETR on a checkpoint of ours, trained by the stock Trainer.

    python docs/examples/train_detection.py --model synco-v2-swin-t --data boxes --output-dir runs/detr

`--data` holds train/ and test/, each with images and annotations.json as COCO has it: `images` (id, file_name),
`annotations` (image_id, category_id, bbox: left, top, width, height in pixels), `categories` (id, name). Every flag of
`TrainingArguments` is taken too.

Deformable DETR takes several maps: of a Swin `out_indices=[2, 3, 4]`, of a ViT `pyramid=True`. RT-DETR and D-FINE read
strides from 8 on: of a Swin with patches of 4 pixels `out_indices=[2, 3, 4]`; on the pyramid of a ViT, whose strides
begin with 4, give them `feat_strides=[4, 8, 16]`. All of them draw a random backbone from a config, as below.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoImageProcessor,
    ConditionalDetrConfig,
    ConditionalDetrForObjectDetection,
    DetrConfig,
    DetrForObjectDetection,
    DetrImageProcessor,
    HfArgumentParser,
    Trainer,
    TrainingArguments,
)

from synco_hub.data import decode_rgb
from synco_hub.models import SynCoBackbone, SynCoConfig

HEADS = {
    "conditional-detr": (ConditionalDetrConfig, ConditionalDetrForObjectDetection),
    "detr": (DetrConfig, DetrForObjectDetection),
}


@dataclass
class DetectionArguments:
    """What is trained on what."""

    model: str = field(metadata={"help": "Short name, directory or Hub id of a checkpoint of ours."})
    data: str = field(metadata={"help": "Folder with train/ and test/."})
    head: str = field(default="conditional-detr", metadata={"help": "conditional-detr or detr.", "choices": [*HEADS]})
    size: int = field(default=480, metadata={"help": "Shorter side of an image in pixels; the longer is at most 5/3."})
    layers: int = field(default=6, metadata={"help": "Layers of encoder and decoder."})
    width: int = field(default=256, metadata={"help": "Width of encoder and decoder."})
    queries: int = field(default=100, metadata={"help": "Objects that can be found in an image."})


class CocoBoxes(Dataset[dict[str, Any]]):
    """Images of a split with their boxes, as the processor of DETR makes them."""

    def __init__(self, folder: Path, processor: Any) -> None:
        listed = json.loads((folder / "annotations.json").read_text(encoding="utf-8"))
        self.folder, self.images, self.processor = folder, listed["images"], processor
        categories = sorted(listed["categories"], key=lambda category: category["id"])
        # Identifiers of COCO have gaps.
        self.number_of = {category["id"]: number for number, category in enumerate(categories)}
        self.class_names = [category["name"] for category in categories]
        self.boxes: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for each in listed["annotations"]:
            area = each.get("area", each["bbox"][2] * each["bbox"][3])
            number = self.number_of[each["category_id"]]
            box = {"bbox": each["bbox"], "category_id": number, "area": area, "iscrowd": each.get("iscrowd", 0)}
            self.boxes[each["image_id"]].append(box)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        about = self.images[index]
        image = decode_rgb(self.folder / about["file_name"])
        target = {"image_id": about["id"], "annotations": self.boxes[about["id"]]}
        made = self.processor(images=image, annotations=target, return_tensors="pt", do_pad=False)
        return {"pixel_values": made["pixel_values"][0], "labels": made["labels"][0]}


def collate(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Images of several sizes, zeros on the right and below, with a mask of where there is image."""
    height, width = (max(item["pixel_values"].shape[axis] for item in items) for axis in (1, 2))
    pixels = torch.zeros(len(items), 3, height, width)
    mask = torch.zeros(len(items), height, width, dtype=torch.long)
    for row, item in enumerate(items):
        image = item["pixel_values"]
        pixels[row, :, : image.shape[1], : image.shape[2]] = image
        mask[row, : image.shape[1], : image.shape[2]] = 1
    return {"pixel_values": pixels, "pixel_mask": mask, "labels": [dict(item["labels"]) for item in items]}


def build_network(given: DetectionArguments, class_names: Sequence[str]) -> torch.nn.Module:
    """A detector whose backbone has the checkpoint's weights."""
    backbone = AutoBackbone.from_pretrained(given.model, apply_layernorm=True)
    config_of, network_of = HEADS[given.head]
    config = config_of(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=backbone.config,
        num_queries=given.queries,
        d_model=given.width,
        encoder_layers=given.layers,
        decoder_layers=given.layers,
        encoder_ffn_dim=4 * given.width,
        decoder_ffn_dim=4 * given.width,
        id2label=dict(enumerate(class_names)),
        label2id={name: number for number, name in enumerate(class_names)},
    )
    network = network_of(config)
    # Built from a config alone the backbone's weights are random, without a word.
    (own,) = (module for module in network.modules() if isinstance(module, SynCoBackbone))
    own.load_state_dict(backbone.state_dict())
    return network


def main(words: Sequence[str] | None = None) -> dict[str, float]:
    """Train, save, and give the loss on the test images."""
    parser = HfArgumentParser([DetectionArguments, TrainingArguments])
    given, training = parser.parse_args_into_dataclasses(list(sys.argv[1:] if words is None else words))
    if given.model.startswith("timm:") or not isinstance(AutoConfig.from_pretrained(given.model), SynCoConfig):
        # Not parser.error: the usage of a hundred flags would come before the line.
        parser.exit(
            2,
            f"error: --model {given.model} is no checkpoint of ours: `synco-hub convert {given.model} --output FOLDER`"
            " makes one of a ViT or Swin of timm's or transformers', whose folder this takes.\n",
        )
    # The Trainer would drop what is not an argument of forward, and gather boxes of different numbers.
    training.remove_unused_columns, training.prediction_loss_only = False, True
    own = AutoImageProcessor.from_pretrained(given.model)
    size = {"shortest_edge": given.size, "longest_edge": given.size * 5 // 3}
    processor = DetrImageProcessor(size=size, image_mean=own.image_mean, image_std=own.image_std)
    train, test = (CocoBoxes(Path(given.data) / split, processor) for split in ("train", "test"))
    network = build_network(given, train.class_names)
    trainer = Trainer(network, training, train_dataset=train, eval_dataset=test, data_collator=collate)
    trainer.train()
    trainer.save_model()
    processor.save_pretrained(training.output_dir)
    metrics: dict[str, float] = trainer.evaluate()
    trainer.save_metrics("eval", metrics)
    return metrics


if __name__ == "__main__":
    main()
