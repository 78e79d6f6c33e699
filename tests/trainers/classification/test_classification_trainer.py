"""What `trainers.classification.classification_trainer` does for the probe and for fine-tuning alike."""

import pytest
import torch

from synco_hub.data import TooManyBadImagesError
from synco_hub.evaluation.classification_targets import ClassificationTargets
from synco_hub.feature_adapter import FeatureRule
from trainers.classification.classification_arguments import LinearProbeArguments
from trainers.classification.feature_dataset import FeatureDataset
from trainers.classification.linear_heads import LinearHeads
from trainers.classification.linear_probe_trainer import LinearProbeTrainer


class WithBadRows(FeatureDataset):
    """Rows of which some could not be read: nonsense that must not count."""

    bad = (2, 5)

    def __getitem__(self, key):
        item = super().__getitem__(key)
        if item["index"] in self.bad:
            item["features"] = torch.full_like(item["features"], 1e3)
            item["bad_index"] = item["index"]
        return item


def run(tmp_path, train, test, **arguments):
    args = LinearProbeArguments(
        output_dir=str(tmp_path),
        learning_rates=[8.0],
        num_train_epochs=3,
        per_device_train_batch_size=64,
        use_cpu=True,
        disable_tqdm=True,
        dataloader_num_workers=0,
        save_strategy="no",
        eval_strategy="no",
        logging_steps=1,
        **arguments,
    )
    torch.manual_seed(0)
    heads = LinearHeads(4, 3, 1, 0.1)
    targets = ClassificationTargets(test.targets, ("a", "b", "c"))
    trainer = LinearProbeTrainer(heads, args, train, test, targets, None, FeatureRule("timm", "given"), (8.0,))
    trainer.train()
    return trainer


def rows(count=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 4, generator=generator), torch.randint(3, (count,), generator=generator)


def test_unreadable_rows_count_neither_in_training_nor_in_the_metrics(tmp_path):
    values, targets = rows()
    good = [index for index in range(12) if index not in WithBadRows.bad]
    spoiled, clean = WithBadRows(values, targets), FeatureDataset(values[good], targets[good])
    with_bad = run(tmp_path, spoiled, spoiled, max_bad_fraction=0.2)
    without = run(tmp_path, clean, clean)
    assert torch.allclose(with_bad.model.head(0)[0], without.model.head(0)[0], atol=1e-6)
    assert with_bad.evaluate() == pytest.approx(without.evaluate())
    assert with_bad.train_ledger.indices == with_bad.eval_ledger.indices == [2, 5]
    with pytest.raises(TooManyBadImagesError, match="2 of 12 images cannot be read"):
        run(tmp_path, spoiled, clean, max_bad_fraction=0.1)


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    values, targets = rows()
    values[3] = torch.nan
    with pytest.raises(FloatingPointError, match="The loss is nan near step 1"):
        run(tmp_path, FeatureDataset(values, targets), FeatureDataset(*rows(seed=1)))
