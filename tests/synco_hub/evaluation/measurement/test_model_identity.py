import torch
from torch import nn

from synco_hub.evaluation.measurement.model_identity import model_identity, weights_fingerprint
from synco_hub.models import SynCoConfig, SynCoForImageClassification, SynCoModel


def test_the_fingerprint_sees_every_weight_and_buffer_and_nothing_else():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).bfloat16()
    before = weights_fingerprint(network)
    assert weights_fingerprint(network.eval()) == before
    network[1].running_mean[2] += 1
    changed = weights_fingerprint(network)
    with torch.no_grad():
        network[0].weight[0, 0] += 1
    assert len({before, changed, weights_fingerprint(network)}) == 3
    assert weights_fingerprint(network.float()) != changed


def test_the_same_weights_with_other_heads_are_another_model(tmp_path):
    torch.manual_seed(0)
    one = SynCoModel(SynCoConfig(backbone="vit-nano", depth=1))
    other = SynCoModel(SynCoConfig(backbone="vit-nano", depth=1, num_heads=1))
    other.load_state_dict(one.state_dict())
    ours, theirs = model_identity(one), model_identity(other)
    assert ours["weights"] == theirs["weights"]
    assert ours["configuration"] != theirs["configuration"]
    # Where it lies plays no part.
    for name in ("a", "b"):
        one.save_pretrained(tmp_path / name)
    loaded = [model_identity(SynCoModel.from_pretrained(tmp_path / name)) for name in ("a", "b")]
    assert loaded[0] == loaded[1] == ours


def test_heads_and_class_names_count():
    torch.manual_seed(0)
    config = SynCoConfig(backbone="vit-nano", depth=1, num_labels=2)
    classifier = SynCoForImageClassification(config)
    before = model_identity(classifier)
    classifier.config.id2label = {0: "second", 1: "first"}
    assert model_identity(classifier)["configuration"] != before["configuration"]
    with torch.no_grad():
        classifier.classifier.bias[0] += 1
    assert model_identity(classifier)["weights"] != before["weights"]
