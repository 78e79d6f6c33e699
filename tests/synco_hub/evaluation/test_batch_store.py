import pytest
import torch

from synco_hub.evaluation.batch_store import BatchStore, weights_fingerprint


def test_batches_come_back_and_other_settings_are_refused(tmp_path):
    store = BatchStore(tmp_path / "s", {"seed": 1, "weights": "a"})
    assert store.load("fgsm", 3) is None
    store.save("fgsm", 3, {"correct": [True, False]})
    again = BatchStore(tmp_path / "s", {"weights": "a", "seed": 1})
    assert again.load("fgsm", 3) == {"correct": [True, False]}
    assert again.load("pgd", 3) is None
    with pytest.raises(ValueError, match="another measurement \\(seed, size differ\\)"):
        BatchStore(tmp_path / "s", {"seed": 2, "weights": "a", "size": 4})
    assert not [path for path in (tmp_path / "s").rglob("*") if path.name.startswith(".")]


@pytest.mark.parametrize("text", ["", '{"correct": [tr', "[1]"])
def test_damaged_batches_are_named(tmp_path, text):
    store = BatchStore(tmp_path, {})
    store.save("fgsm", 0, {})
    (tmp_path / "fgsm" / "batch-000000.json").write_text(text)
    with pytest.raises(ValueError, match=r"batch-000000\.json .* remove it"):
        store.load("fgsm", 0)
    (tmp_path / "settings.json").write_text(text)
    with pytest.raises(ValueError, match=r"settings\.json differ"):
        BatchStore(tmp_path, {})


def test_the_fingerprint_changes_with_any_weight_and_not_with_the_device_or_order():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    first = weights_fingerprint(network)
    assert weights_fingerprint(network) == first
    network[1].running_mean[0] += 1e-6
    second = weights_fingerprint(network)
    assert second != first
    assert weights_fingerprint(network.to(torch.bfloat16)) not in (first, second)
