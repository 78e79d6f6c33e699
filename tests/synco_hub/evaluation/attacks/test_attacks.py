import sys

import numpy as np
import pytest
import torch
from transformers.modeling_outputs import ImageClassifierOutput

from synco_hub.evaluation.attacks.attack_settings import ATTACKS, FGSM, with_epsilon
from synco_hub.evaluation.attacks.attacks import (
    AttackedBatch,
    adversarial_images,
    attack_batch,
    check_pixels,
    require_library,
)
from synco_hub.evaluation.attacks.pixel_classifier import attackable

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
    with attackable(network, HALF, HALF, None) as wrapper:
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
    ours = adversarial_images(network, FGSM(3 / 255), images, labels, seed=0)
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
    done = attacked((network, images[:10], labels[:10]), with_epsilon(ATTACKS[name], 0.0))
    assert max(done.linf) <= 1e-6


@pytest.mark.parametrize("name", ["square", "one_pixel", "pgd"])
def test_another_seed_draws_something_else(trained, name):
    network, images, labels = trained
    first, second = (adversarial_images(network, ATTACKS[name], images[:8], labels[:8], seed) for seed in (1, 2))
    assert not torch.equal(first, second)


def test_one_pixel_is_one_pixel(trained):
    network, images, labels = trained
    changed = adversarial_images(network, ATTACKS["one_pixel"], images[:6], labels[:6], 5) != images[:6]
    assert changed.any(dim=1).flatten(1).sum(dim=1).max() == 1


def test_pixels_outside_and_broken_bounds_are_refused(trained, monkeypatch):
    network, images, labels = trained
    for wrong in (images * 255, images - 0.6, torch.full_like(images, torch.nan)):
        with pytest.raises(ValueError, match=r"attacks work on pixels in \[0, 1\]"):
            attacked((network, wrong, labels), ATTACKS["fgsm"])
    check_pixels(torch.tensor([0.0, 1.0]), "the images")
    monkeypatch.setattr("synco_hub.evaluation.attacks.attacks.adversarial_images", lambda *args: 1 - args[2])
    for name, text in (("pgd", "its bound is 0.031373"), ("one_pixel", "changed more than 1 pixel")):
        with pytest.raises(ValueError, match=text):
            attacked(trained, ATTACKS[name])


def test_the_missing_library_is_one_line_with_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchattacks", None)
    with pytest.raises(ImportError, match="pip install --no-deps torchattacks==3") as caught:
        require_library()
    assert "\n" not in str(caught.value)
