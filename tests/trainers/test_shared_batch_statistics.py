from torch import nn

from synco_hub.models import SynCoConfig
from trainers.pretraining_model import SynCoForPreTraining
from trainers.shared_batch_statistics import with_shared_batch_statistics


def test_batch_statistics_are_shared_where_the_device_can(caplog):
    settings = {"queue_size": 8, "num_hard_negatives": 2, "projection_hidden_dim": 16, "projection_dim": 8}
    config = SynCoConfig(backbone="vit-nano", depth=1, pretraining=settings)
    model = SynCoForPreTraining(config)
    keys = list(model.state_dict())
    assert with_shared_batch_statistics(model, "cpu") is model
    assert "not synchronised on cpu" in caplog.text
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in model.modules())
    shared = with_shared_batch_statistics(model, "cuda")
    assert sum(isinstance(module, nn.SyncBatchNorm) for module in shared.modules()) == 3
    assert not any(isinstance(module, nn.BatchNorm1d) for module in shared.modules())
    assert list(shared.state_dict()) == keys
