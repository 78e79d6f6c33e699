import inspect
import sys

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as transforms
from transformers.modeling_outputs import ImageClassifierOutput

from synco_hub.evaluation.attacks import (
    ATTACKS,
    FGSM,
    AttackedBatch,
    AutoAttack,
    PixelClassifier,
    _check_pixels,
    attack_batch,
    attack_images,
    choose_attacks,
    make_attackable,
    replace_epsilon,
    require_library,
)


def test_the_numbers_of_the_paper():
    byte = 1 / 255
    assert ATTACKS["fgsm"].epsilon == 8 * byte
    assert (ATTACKS["pgd"].epsilon, ATTACKS["pgd"].step_size, ATTACKS["pgd"].steps) == (8 * byte, 2 * byte, 10)
    assert (ATTACKS["tifgsm"].epsilon, ATTACKS["tifgsm"].step_size, ATTACKS["tifgsm"].steps) == (
        8 * byte,
        2 * byte,
        10,
    )
    wagner = ATTACKS["cw"]
    assert (wagner.constant, wagner.confidence, wagner.steps, wagner.learning_rate) == (1e-4, 0, 50, 0.01)
    assert ATTACKS["square"].queries == 1000
    assert (ATTACKS["one_pixel"].pixels, ATTACKS["one_pixel"].steps) == (1, 10)


@pytest.mark.parametrize("name", list(ATTACKS))
def test_what_the_paper_does_not_say_is_the_librarys_default(name):
    library = pytest.importorskip("torchattacks")
    attack = ATTACKS[name]
    defaults = inspect.signature(getattr(library, attack.library_name).__init__).parameters
    given = attack.library_arguments(num_classes=1000, seed=5)
    names = {"epsilon": "eps", "restarts": "n_restarts", "first_share": "p_init", "target_classes": "n_classes"}
    for key in attack.from_library:
        there = names.get(key, key)
        assert given[there] == defaults[there].default, key
    assert set(given) <= set(defaults)


def test_another_bound_keeps_the_share_of_a_step():
    half = replace_epsilon(ATTACKS["pgd"], 4 / 255)
    assert half.step_size == pytest.approx(1 / 255)
    assert replace_epsilon(ATTACKS["pgd"], 0).step_size == 0
    assert replace_epsilon(ATTACKS["cw"], 0.5) is ATTACKS["cw"]
    with pytest.raises(ValueError, match="epsilon=8"):
        replace_epsilon(ATTACKS["fgsm"], 8)


def test_names_are_checked_and_autoattack_tries_the_classes_there_are():
    assert list(choose_attacks("all")) == list(ATTACKS)
    assert list(choose_attacks("pgd, fgsm,pgd")) == ["pgd", "fgsm"]
    for wrong in ("deepfool", "", "fgsm,deepfool"):
        with pytest.raises(ValueError, match="known are fgsm"):
            choose_attacks(wrong)
    assert AutoAttack().library_arguments(1000, 0)["n_classes"] == 10
    assert AutoAttack().library_arguments(5, 0)["n_classes"] == 5


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
    with make_attackable(network, MEAN, STD, None) as wrapper:
        assert not wrapper.training
        assert not network.training
        images = torch.rand(2, 3, 8, 8, requires_grad=True)
        wrapper(images).sum().backward()
        assert images.grad.abs().sum() > 0
        assert network.layer.weight.grad is None
    assert network.training
    assert network.layer.weight.requires_grad
    assert not network.layer.bias.requires_grad


HALF = (0.5, 0.5, 0.5)


class Network(torch.nn.Module):
    """A small convolutional network."""

    def __init__(self, classes=5):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 16, 3, stride=2, padding=1),
            torch.nn.GELU(),
            torch.nn.Conv2d(16, 16, 3, stride=2, padding=1),
            torch.nn.GELU(),
            torch.nn.Flatten(),
            torch.nn.Linear(16 * 16, classes),
        )

    def forward(self, pixel_values):
        return ImageClassifierOutput(logits=self.layers(pixel_values))


def drawn_images(count, generator):
    """Five classes that differ in the place of a faint light spot under noise."""
    labels = torch.randint(0, 5, (count,), generator=generator)
    images = 0.5 + 0.12 * torch.randn(count, 3, 16, 16, generator=generator)
    for index, label in enumerate(labels.tolist()):
        row, column = ((0, 0), (0, 8), (8, 0), (8, 8), (4, 4))[label]
        images[index, :, row : row + 8, column : column + 8] += 0.05
    return images.clamp(0, 1), labels


@pytest.fixture(scope="module")
def trained():
    pytest.importorskip("torchattacks")
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    network = Network()
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(150):
        images, labels = drawn_images(128, generator)
        loss = torch.nn.functional.cross_entropy(network((images - 0.5) / 0.5).logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    images, labels = drawn_images(200, generator)
    with make_attackable(network, HALF, HALF, None) as wrapper:
        yield wrapper, images, labels


def attacked(trained, attack, seed=1):
    network, images, labels = trained
    return attack_batch(network, attack, images, labels, torch.arange(len(images)), seed)


def share(flags):
    return sum(flags) / len(flags)


def test_pgd_is_stronger_than_fgsm_and_both_than_nothing(trained):
    network, images, labels = trained
    with torch.no_grad():
        clean = share((network(images).argmax(1) == labels).tolist())
    fgsm, pgd = (share(attacked(trained, ATTACKS[name]).correct) for name in ("fgsm", "pgd"))
    assert clean > 0.8
    assert pgd + 0.03 < fgsm < clean - 0.5


def test_fgsm_is_one_step_along_the_sign_of_the_gradient(trained):
    network, images, labels = trained
    pixels = images.clone().requires_grad_()
    torch.nn.functional.cross_entropy(network(pixels), labels).backward()
    expected = (images + 3 / 255 * pixels.grad.sign()).clamp(0, 1)
    ours = attack_images(network, FGSM(3 / 255), images, labels, seed=0)
    assert torch.allclose(ours, expected, atol=1e-6)


@pytest.mark.parametrize("name", list(ATTACKS))
def test_every_attack_repeats_itself_keeps_its_bound_and_leaves_the_generators(trained, name):
    torch.manual_seed(3)
    np.random.seed(3)
    expected = torch.get_rng_state(), np.random.get_state()[1].tolist()
    network, images, labels = trained
    few = network, images[:12], labels[:12]
    once, twice = attacked(few, ATTACKS[name], 11), attacked(few, ATTACKS[name], 11)
    assert (once.correct, once.linf, once.l2, once.images_forwarded) == (
        twice.correct,
        twice.linf,
        twice.l2,
        twice.images_forwarded,
    )
    assert torch.equal(torch.get_rng_state(), expected[0])
    assert np.random.get_state()[1].tolist() == expected[1]
    assert once.images_forwarded >= 12
    bound = ATTACKS[name].largest_change
    if bound is not None:
        assert max(once.linf) <= bound + 1e-6
    if name in ("fgsm", "pgd", "tifgsm"):
        assert min(once.linf) > 0
    assert AttackedBatch.from_dict(once.to_dict()) == once


@pytest.mark.parametrize(
    "name",
    # AutoAttack asks 5,000 queries of every image that it cannot turn.
    ["fgsm", "pgd", "square", "tifgsm", pytest.param("autoattack", marks=pytest.mark.slow)],
)
def test_without_room_inputs_stay(trained, name):
    network, images, labels = trained
    done = attacked((network, images[:10], labels[:10]), replace_epsilon(ATTACKS[name], 0.0))
    assert max(done.linf) <= 1e-6


@pytest.mark.parametrize("name", ["square", "one_pixel", "pgd"])
def test_another_seed_draws_something_else(trained, name):
    network, images, labels = trained
    first, second = (attack_images(network, ATTACKS[name], images[:8], labels[:8], seed) for seed in (1, 2))
    assert not torch.equal(first, second)


def test_one_pixel_is_one_pixel(trained):
    network, images, labels = trained
    changed = attack_images(network, ATTACKS["one_pixel"], images[:6], labels[:6], 5) != images[:6]
    assert changed.any(dim=1).flatten(1).sum(dim=1).max() == 1


def test_pixels_outside_and_broken_bounds_are_refused(trained, monkeypatch):
    network, images, labels = trained
    for wrong in (images * 255, images - 0.6, torch.full_like(images, torch.nan)):
        with pytest.raises(ValueError, match=r"attacks work on pixels in \[0, 1\]"):
            attacked((network, wrong, labels), ATTACKS["fgsm"])
    _check_pixels(torch.tensor([0.0, 1.0]), "the images")
    monkeypatch.setattr("synco_hub.evaluation.attacks.attack_images", lambda *args: 1 - args[2])
    for name, text in (("pgd", "its bound is 0.031373"), ("one_pixel", "changed more than 1 pixel")):
        with pytest.raises(ValueError, match=text):
            attacked(trained, ATTACKS[name])


def test_the_missing_library_is_one_line_with_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchattacks", None)
    with pytest.raises(ImportError, match="pip install --no-deps torchattacks==3") as caught:
        require_library()
    assert "\n" not in str(caught.value)
