import torch
from torchvision.transforms.v2 import functional as transforms
from transformers.modeling_outputs import ImageClassifierOutput

from synco_hub.evaluation.attacks.pixel_classifier import PixelClassifier, attackable

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


class Linear(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3 * 64, 5)

    def forward(self, pixel_values):
        return ImageClassifierOutput(logits=self.layer(pixel_values.flatten(1)))


def test_it_is_the_plain_classifier_to_the_bit_and_counts():
    images, network = torch.rand(7, 3, 8, 8), Linear()
    wrapper = PixelClassifier(network, MEAN, STD)
    plain = network(torch.stack([transforms.normalize(image, MEAN, STD) for image in images])).logits
    assert torch.equal(wrapper(images), plain)
    assert torch.equal(wrapper.plain_logits(transforms.normalize(images, MEAN, STD)), plain)
    assert wrapper.images_forwarded == 7
    assert wrapper(images.half().float()).dtype == torch.float32


def test_gradients_reach_pixels_and_not_weights_and_all_is_put_back():
    network = Linear().train()
    network.layer.bias.requires_grad_(False)
    with attackable(network, MEAN, STD, None) as wrapper:
        assert not wrapper.training
        assert not network.training
        images = torch.rand(2, 3, 8, 8, requires_grad=True)
        wrapper(images).sum().backward()
        assert images.grad.abs().sum() > 0
        assert network.layer.weight.grad is None
    assert network.training
    assert network.layer.weight.requires_grad
    assert not network.layer.bias.requires_grad
