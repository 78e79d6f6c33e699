"""Everything between a batch and its loss runs on a GPU without waiting for it, as far as that shows without one."""

import pytest
import torch
from pretended_gpu import pretended_gpu
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.nn import functional as F

from synco_hub.models import SynCoConfig
from trainers import SynCoForPreTraining, SyntheticNegatives

SMALL = {"queue_size": 512, "num_hard_negatives": 32}


def _module() -> SyntheticNegatives:
    module = SyntheticNegatives()
    # Only the first call of a module looks at the lengths of what it is given.
    module.knows_lengths = True
    return module


def test_the_pretence_refuses_what_a_gpu_would_wait_for_or_refuse() -> None:
    with pretended_gpu() as gpu:
        there, here = gpu.put(torch.ones(3)), torch.ones(3)
        assert (there + there).device.type == "cuda"
        with pytest.raises(RuntimeError, match="device"):
            there + here
        with pytest.raises(DataDependentOutputException):
            there.sum().item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_loss(dtype: torch.dtype) -> None:
    query, key = F.normalize(torch.randn(2, 64, 256), dim=-1).to(dtype)
    queue = F.normalize(torch.randn(4096, 256), dim=-1).to(dtype)
    with pretended_gpu() as gpu:
        query = gpu.put(query).requires_grad_()
        output = _module().contrast(query, gpu.put(key), gpu.put(queue))
        assert output.loss.device.type == output.accuracy.device.type == "cuda"
        assert output.loss.dtype == torch.float32
        assert output.loss.requires_grad


def test_a_generator_of_another_device_is_refused() -> None:
    with pretended_gpu() as gpu:
        query, queue = gpu.put(torch.ones(4, 16)), gpu.put(torch.ones(300, 16))
        with pytest.raises(ValueError, match="the generator is on cpu but the query on cuda"):
            _module().loss(query, query, queue, torch.Generator())


@pytest.mark.parametrize("backbone", ["vit-nano", "swin-t"])
@pytest.mark.parametrize("method", ["synco-v2", "moby", "byol"])
def test_a_step_of_pretraining(method: str, backbone: str) -> None:
    settings = {"method": method, **(SMALL if method != "byol" else {})}
    model = SynCoForPreTraining(SynCoConfig(backbone=backbone, pretraining=settings)).train()
    views = torch.randn(2, 4, 3, model.config.image_size, model.config.image_size)
    with pretended_gpu() as gpu:
        gpu.put(model)
        output = model(*gpu.put(views), synthetic_active=True)
        assert output.loss.device.type == output.feature_std.device.type == "cuda"
        model.update_target_network(0.99)
        assert {parameter.device.type for parameter in model.parameters()} == {"cuda"}
        assert {buffer.device.type for buffer in model.buffers()} == {"cuda"}
