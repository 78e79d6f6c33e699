import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from synco_hub.data import EvaluationDataset, EvaluationTransform, load_dataset
from synco_hub.evaluation.attacks.attacked_batches import AttackedBatches
from synco_hub.evaluation.attacks.attacks import AttackedBatch
from synco_hub.features import ExtractionSettings

QUIET = ExtractionSettings(batch_size=4, progress=False)


def write(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def dataset(tmp_path):
    for index in range(10):
        write(tmp_path / "data" / "test" / "c" / f"{index}.bmp", index)
    return EvaluationDataset(load_dataset(tmp_path / "data", "test"), EvaluationTransform(32))


def recorder(seen):
    def measure(images, indices, number):
        seen.append((number, indices.tolist()))
        assert len(images) == len(indices)
        return AttackedBatch(tuple(indices.tolist()), tuple(index % 2 == 0 for index in indices.tolist()))

    return measure


def measured(dataset, tmp_path, seen, kind="fgsm", settings=QUIET, facts=None):
    batches = AttackedBatches(dataset, tmp_path / "kept", facts or {"seed": 1}, settings)
    return batches, batches.measured("fgsm", kind, dataset, recorder(seen))


def test_only_batches_whose_images_changed_are_measured_again(dataset, tmp_path):
    seen = []
    _, first = measured(dataset, tmp_path, seen)
    assert seen == [(0, [0, 1, 2, 3]), (1, [4, 5, 6, 7]), (2, [8, 9])]
    assert [batch.indices for batch in first] == [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9)]
    assert measured(dataset, tmp_path, seen)[1] == first
    assert len(seen) == 3
    write(tmp_path / "data" / "test" / "c" / "5.bmp", 99)  # the same name, size and format
    assert measured(dataset, tmp_path, seen)[1] == first
    assert seen[3:] == [(1, [4, 5, 6, 7])]
    measured(dataset, tmp_path, seen, kind="pgd")
    assert len(seen) == 7
    with pytest.raises(ValueError, match=r"another measurement \(seed: 1 there, 2 now\)"):
        measured(dataset, tmp_path, seen, facts={"seed": 2})


def test_unreadable_images_are_in_no_batch_and_known_again(dataset, tmp_path):
    for index in (2, 8, 9):
        (tmp_path / "data" / "test" / "c" / f"{index}.bmp").write_bytes(b"broken")
    lenient, seen = replace(QUIET, max_bad_fraction=0.5), []
    for _ in range(2):
        batches, found = measured(dataset, tmp_path, seen, settings=lenient)
        assert [batch.indices for batch in found] == [(0, 1, 3), (4, 5, 6, 7), ()]
        assert batches.ledger.names() == ["c/2.bmp", "c/8.bmp", "c/9.bmp"]
    assert len(seen) == 2
    with pytest.raises(ValueError, match="3 of 10 images cannot be read"):
        measured(dataset, tmp_path, seen, settings=replace(QUIET, max_bad_fraction=0.2))


def test_a_damaged_batch_is_named(dataset, tmp_path):
    measured(dataset, tmp_path, [])
    file = tmp_path / "kept" / "fgsm" / "batch-000001.json"
    assert json.loads(file.read_text())["indices"] == [4, 5, 6, 7]
    file.write_text('{"correct": [tr')
    with pytest.raises(ValueError, match=r"batch-000001\.json.* is damaged .* delete it"):
        measured(dataset, tmp_path, [])
