"""Folders as version 0.1 read them."""

from pathlib import Path

import pytest

from synco_hub.data import load_dataset
from synco_hub.data.folder_version_0_1 import load_version_0_1_images
from synco_hub.data.loading import load_pretraining_images, load_recorded_images
from synco_hub.settings import DatasetChoice


@pytest.mark.parametrize(
    ("names", "count", "rule", "fingerprint"),
    [
        (
            [*(f"{kind}/{k}.jpg" for kind in ("bus", "car") for k in range(10)), "l.png", "car/raw.tga", "bus/x.apng"],
            *(16, "seeded stratified split (seed 3): 20% of each class, 4 of 20 images, are the test split"),
            "d49dcb644e39f27d",
        ),
        (
            [f"{split}/{kind}/{k}.jpg" for split in ("Train", "Test") for kind in ("bus", "car") for k in range(5)],
            *(16, "seeded stratified split (seed 3): 20% of each class, 4 of 20 images, are the test split"),
            "c2c777fb174a6d63",
        ),
        (
            [
                *(
                    f"{split}/{kind}/{k}.jpg"
                    for split in ("train", "val")
                    for kind in ("bus", "car")
                    for k in range(5)
                ),
                *("val/van/1.jpg", "unlabeled/1.jpg"),
            ],
            *(10, "folder train/ for train, folder val/ for test", "ec9862e3cb882b9b"),
        ),
        (
            [*(f"{k}.jpg" for k in range(5)), "5.tga"],
            *(5, "no class folders: all images are for training", "e1615ddde0f89cfa"),
        ),
        (
            [f"train/{kind}/{k}.jpg" for kind in ("bus", "car") for k in range(5)],
            *(8, "seeded stratified split (seed 3): 20% of each class, 2 of 10 images, are the test split"),
            "e20646fa6761796a",
        ),
    ],
)
def test_what_version_0_1_pretrained_on(
    tmp_path: Path, names: list[str], count: int, rule: str, fingerprint: str
) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    said = load_version_0_1_images(tmp_path, seed=3).description
    assert (said.num_images, said.split_rule, said.fingerprint, said.split) == (count, rule, fingerprint, "train")
    choice = DatasetChoice(str(tmp_path), split_seed=3)
    assert load_pretraining_images(choice, recorded={"fingerprint": fingerprint}).description == said
    # A run that begins now, or began with other images, gets those of today.
    for recorded in (None, {}, {"fingerprint": "another"}):
        assert load_pretraining_images(choice, recorded=recorded).description.fingerprint != fingerprint


def test_probes_of_version_0_1_go_on_with_both_splits(tmp_path: Path) -> None:
    names = [f"{split}/{kind}/{k}.jpg" for split in ("train", "val") for kind in ("bus", "car") for k in range(3)]
    for name in (*names, "train/bus/9.tga", "val/van/1.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    choice = DatasetChoice(str(tmp_path))
    for split, count in (("train", 6), ("test", 7)):
        said = load_version_0_1_images(tmp_path, split).description
        assert (said.num_images, said.num_classes, said.split) == (count, 2, split)
        found = load_recorded_images(choice, split, said.to_dict(), lambda images: images)
        assert found.description == said != load_dataset(choice, split).description
        assert load_recorded_images(choice, split, None, lambda images: images).num_classes == 3
