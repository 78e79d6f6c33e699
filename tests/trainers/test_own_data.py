"""`trainers.pretraining_trainer.SynCoTrainer` on data sets of torch, torchvision and `datasets`."""

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2
from transformers import AutoImageProcessor, AutoModel, TrainingArguments
from transformers.data import default_data_collator

from synco_hub.data import TwoViewDataset, load_dataset
from synco_hub.models import SynCoConfig, SynCoModel
from trainers import SynCoForPreTraining, SynCoTrainer, SynCoTrainingArguments

SMALL = {"queue_size": 16, "num_hard_negatives": 4, "projection_hidden_dim": 16, "projection_dim": 8}
PICTURES = [
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (36, 40, 3), dtype=np.uint8)) for seed in range(10)
]
CROP = v2.Compose([v2.RandomResizedCrop(32), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)])


def model() -> SynCoForPreTraining:
    torch.manual_seed(0)
    return SynCoForPreTraining(SynCoConfig(backbone="vit-nano", depth=1, pretraining=SMALL))


def arguments(output: Path, **values: object) -> SynCoTrainingArguments:
    defaults = {"max_steps": 5, "per_device_train_batch_size": 4, "dataloader_num_workers": 0, "seed": 3}
    return SynCoTrainingArguments(
        output_dir=str(output), use_cpu=True, disable_tqdm=True, **{**defaults, "save_strategy": "no", **values}
    )


def table() -> datasets.Dataset:
    return datasets.Dataset.from_dict({"image": PICTURES}, features=datasets.Features({"image": datasets.Image()}))


def collate_crops(items: list[tuple[Image.Image, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(torch.stack([CROP(image) for image, _ in items]) for _ in range(2))


DATA = {
    "own": lambda folder: (load_dataset(str(folder), "train"), None),
    "table": lambda folder: (table(), None),
    "views of a table": lambda folder: (
        table().with_transform(lambda rows: {f"view_{n}": [CROP(x) for x in rows["image"]] for n in (1, 2)}),
        None,
    ),
    "views by the default collator": lambda folder: (
        table().with_transform(lambda rows: {f"view_{n}": [CROP(x) for x in rows["image"]] for n in (1, 2)}),
        default_data_collator,
    ),
    "own transform": lambda folder: (TwoViewDataset(table(), CROP, seed=1), None),
    "own collator": lambda folder: ([(image, 0) for image in PICTURES], collate_crops),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    for index, picture in enumerate(PICTURES):
        for split in ("train", "test"):
            (root / split / f"class{index % 2}").mkdir(parents=True, exist_ok=True)
            picture.save(root / split / f"class{index % 2}" / f"{index}.png")
    return root


@pytest.mark.parametrize("kind", DATA)
def test_it_trains_saves_what_can_be_loaded_and_resumes_to_the_same_bits(folder, tmp_path, kind):
    data, collate = DATA[kind](folder)
    saving = {"save_strategy": "steps", "save_steps": 3}
    whole = SynCoTrainer(model(), arguments(tmp_path / "whole", **saving), data, data_collator=collate)
    whole.train()
    resumed = SynCoTrainer(model(), arguments(tmp_path / "resumed"), data, data_collator=collate)
    torch.rand(7)
    resumed.train(resume_from_checkpoint=tmp_path / "whole" / "checkpoint-3")
    for trainer, name in ((whole, "whole"), (resumed, "resumed")):
        trainer.save_model(str(tmp_path / f"{name}-end"))
    ends = [load_file(tmp_path / f"{name}-end" / "model.safetensors") for name in ("whole", "resumed")]
    assert [name for name in ends[0] if not torch.equal(ends[0][name], ends[1][name])] == []
    for place in ("whole/checkpoint-3", "whole-end"):
        processor = AutoImageProcessor.from_pretrained(tmp_path / place)
        assert processor.crop_size["height"] == 32
        assert list(processor.image_std) == ([0.229, 0.224, 0.225] if kind in ("own", "table") else [1.0] * 3)
        features = AutoModel.from_pretrained(tmp_path / place)(**processor(PICTURES[0], return_tensors="pt"))
        assert torch.isfinite(features.pooler_output).all()


def test_images_of_others_train_as_the_packages_own(folder, tmp_path):
    losses = []
    for data in (load_dataset(str(folder), "train"), [load_dataset(str(folder), "train")[k].image for k in range(10)]):
        trainer = SynCoTrainer(model(), arguments(tmp_path, logging_steps=1), data)
        trainer.train()
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"args": TrainingArguments("x", use_cpu=True)}, "args is TrainingArguments: give SynCoTrainingArguments"),
        ({"model": SynCoModel(SynCoConfig(backbone="vit-nano", depth=1))}, r"SynCoForPreTraining\(model\.config\)"),
        ({"eval_dataset": PICTURES}, "eval_dataset is not used: pretraining has no labels"),
        ({"train_dataset": None}, "train_dataset=None is no data set"),
        ({"train_dataset": [(CROP(PICTURES[0]),) * 3] * 8}, "3 views of an image"),
        ({"train_dataset": PICTURES, "data_collator": lambda items: {"image": items}}, "The collator gives image"),
        ({"train_dataset": PICTURES[:3]}, "fewer than one batch of 4"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(tmp_path, changes, message):
    given = {"model": model(), "args": arguments(tmp_path), "train_dataset": PICTURES, **changes}
    with pytest.raises(ValueError, match=message) as error:
        SynCoTrainer(**given)
    assert "\n" not in str(error.value)


def test_evaluation_says_how(tmp_path):
    trainer = SynCoTrainer(model(), arguments(tmp_path), PICTURES)
    with pytest.raises(ValueError, match=r"synco_hub\.evaluate"):
        trainer.evaluate()
    with pytest.raises(ValueError, match=r"synco_hub\.evaluate"):
        trainer.predict(PICTURES)


def test_a_backbone_may_be_where_pretraining_begins(tmp_path):
    """The remedy that the refusal names works."""
    backbone = SynCoModel(SynCoConfig(backbone="vit-nano", depth=1, pretraining=SMALL))
    pretrainer = SynCoForPreTraining(backbone.config)
    for branch in (pretrainer.synco, pretrainer.target):
        branch.load_state_dict(backbone.state_dict())
    trainer = SynCoTrainer(pretrainer, arguments(tmp_path, max_steps=1), PICTURES)
    trainer.train()
    assert trainer.state.global_step == 1


def test_damaged_files_are_counted_and_remembered_over_a_resume(tmp_path):
    for index, picture in enumerate(PICTURES):
        (tmp_path / "data" / "a").mkdir(parents=True, exist_ok=True)
        picture.save(tmp_path / "data" / "a" / f"{index}.png")
    data = ImageFolder(str(tmp_path / "data"))
    (tmp_path / "data" / "a" / "4.png").write_bytes(b"no picture")
    saving = {"save_strategy": "steps", "save_steps": 3, "max_bad_fraction": 0.2}
    trainer = SynCoTrainer(model(), arguments(tmp_path / "run", max_steps=3, **saving), data)
    trainer.train()
    assert [Path(name).name for name in trainer.ledger.names()] == ["4.png"]
    assert json.loads((tmp_path / "run" / "checkpoint-3" / "manifest.json").read_text())["bad_images"] == [4]
    again = SynCoTrainer(model(), arguments(tmp_path / "run", max_steps=4, resume=True, **saving), data)
    again.find_latest_checkpoint()
    assert again.ledger.indices == [4]
