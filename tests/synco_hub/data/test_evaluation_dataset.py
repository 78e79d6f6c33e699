from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import DataLoader

from synco_hub.data.evaluation_dataset import EvaluationDataset
from synco_hub.data.evaluation_transform import EvaluationTransform
from synco_hub.data.image_folder import load_image_folder
from synco_hub.data.unreadable_images import UnreadableImages


def test_batches_with_a_marked_bad_image(tmp_path: Path) -> None:
    for name in ("train/a/1.png", "train/b/1.png", "test/a/1.png", "test/a/2.png", "test/b/3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30, 20), (200, 10, 10)).save(tmp_path / name)
    (tmp_path / "test/a/2.png").write_bytes(b"")
    images = load_image_folder(tmp_path, "test")
    dataset = EvaluationDataset(images, EvaluationTransform(16))
    (batch,) = DataLoader(dataset, batch_size=8)
    assert batch["label"].tolist() == [0, 0, 1]
    assert batch["index"].tolist() == [0, 1, 2]
    assert batch["bad_index"].tolist() == [-1, 1, -1]
    assert batch["pixel_values"].shape == (3, 3, 16, 16)
    assert torch.equal(batch["pixel_values"][1], torch.zeros(3, 16, 16))
    assert torch.equal(batch["pixel_values"][0], EvaluationTransform(16)(images[0].image))
    ledger = UnreadableImages(dataset, max_bad_fraction=0.5)
    ledger.record(batch["bad_index"])
    assert ledger.names() == ["a/2.png"]
    assert len(dataset) == 3
