import torch
from torch.nn import functional as F

from synco_hub.evaluation.classification import ClassificationTargets
from synco_hub.models import SynCoConfig, SynCoForImageClassification
from trainers.classification.classification_arguments import FineTuningArguments
from trainers.classification.feature_dataset import FeatureDataset
from trainers.classification.fine_tuning_trainer import FineTuningTrainer


def test_sgd_decays_matrices_only_and_the_loss_is_smoothed(tmp_path):
    torch.manual_seed(0)
    model = SynCoForImageClassification(SynCoConfig(backbone="vit-nano", depth=1, num_labels=3))
    model.freeze_fixed_parameters()
    targets = ClassificationTargets(torch.tensor([0, 1, 2, 1]), ("a", "b", "c"))
    data = FeatureDataset(torch.zeros(4, 1), targets.values)
    args = FineTuningArguments(output_dir=str(tmp_path), use_cpu=True, per_device_train_batch_size=256)
    trainer = FineTuningTrainer(model, args, data, data, targets)
    optimizer = trainer.create_optimizer()
    assert isinstance(optimizer, torch.optim.SGD)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed = {names[id(p)]: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decayed["classifier.weight"] == 1e-4
    assert all(value == 0 for name, value in decayed.items() if name.endswith(("bias", "cls_token", "norm.weight")))
    assert "synco.backbone.pos_embed" not in decayed
    assert {(group["lr"], group["momentum"]) for group in optimizer.param_groups} == {(5e-4, 0.9)}

    model.eval()
    images = torch.randn(4, 3, 32, 32)
    batch = {"pixel_values": images, "target": targets.values, "bad_index": torch.tensor([-1, 1, -1, -1])}
    kept = [0, 2, 3]
    expected = F.cross_entropy(model(images).logits[kept], targets.values[kept], label_smoothing=0.1)
    assert torch.allclose(trainer.compute_loss(model, batch), expected)
