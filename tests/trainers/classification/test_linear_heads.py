import torch
from torch.nn import functional as F

from trainers.classification.linear_heads import LinearHeads


def test_heads_start_equal_and_each_gradient_is_its_own():
    generator = torch.Generator().manual_seed(0)
    heads = LinearHeads(6, 5, 3, label_smoothing=0.1)
    features, targets = torch.randn(8, 6, generator=generator), torch.randint(5, (8,), generator=generator)
    output = heads(features, targets)
    assert output["logits"].shape == (3, 8, 5)
    assert torch.equal(output["logits"][0], output["logits"][2])
    output["loss"].backward()
    alone = torch.nn.Linear(6, 5)
    alone.load_state_dict(dict(zip(("weight", "bias"), heads.head(1), strict=True)))
    loss = F.cross_entropy(alone(features), targets, label_smoothing=0.1)
    loss.backward()
    assert torch.allclose(output["loss"], 3 * loss)
    assert torch.allclose(heads.weights[1].grad, alone.weight.grad, atol=1e-7)
    assert torch.allclose(heads.biases[1].grad, alone.bias.grad, atol=1e-7)
