import sys

import numpy as np
import pytest
import torch
from command_line import invoke
from PIL import Image
from transformers.modeling_outputs import ImageClassifierOutput

from synco_hub.cli.evaluate import NULL_EXIT_CODE
from synco_hub.evaluation.attacks import parse_fraction
from synco_hub.models import image_processor
from synco_hub.results import EvaluationResult


class Stripes(torch.nn.Module):
    """Five classes; the logit of class k is the light in stripe k, and the linear margin is known."""

    def __init__(self, scale):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(float(scale)))

    def forward(self, pixel_values):
        stripes = pixel_values[:, :, :, :30].mean(dim=(1, 2)).unflatten(1, (5, 6)).mean(dim=2)
        return ImageClassifierOutput(logits=self.scale * stripes)


@pytest.fixture
def command(monkeypatch, tmp_path):
    """Stripes that stand out by 20 grey levels in half of the images, by 10 in the others."""
    pytest.importorskip("torchattacks")
    for index in range(20):
        label = index % 5
        pixels = np.full((32, 32, 3), 100, dtype=np.uint8)
        pixels[:, 6 * label : 6 * label + 6] += 20 if index < 10 else 10
        path = tmp_path / "data" / "test" / f"c{label}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    processor = image_processor(32)
    processor.size = {"shortest_edge": 32}  # a resize would blur the stripes
    names = tuple(f"c{index}" for index in range(5))
    monkeypatch.setattr("synco_hub.hub.loading.load_classifier", lambda name: (Stripes(10), processor, names))

    def run(*flags):
        base = ["evaluate", "adversarial", "--model", "m", "--dataset", str(tmp_path / "data"), "--device", "cpu"]
        return invoke([*base, "--output", str(tmp_path / "adv.json"), *map(str, flags)])

    return run


def test_planted_margins_decide_what_falls(command, tmp_path):
    """Stripe against stripe each attacked value moves 8 levels: margins of 10 fall, those of 20 stay."""
    done = command("--attacks", "fgsm,pgd", "--batch-size", 8)
    assert done.exit_code == 0, done.output
    result = EvaluationResult.load(tmp_path / "adv.json", "adversarial")
    assert result.metrics["top1_clean"] == 100.0
    assert result.metrics["top1_fgsm"] == result.metrics["top1_pgd"] == 50.0
    assert not result.partial
    (tmp_path / "adv.json").unlink()
    done = command("--attacks", "fgsm", "--batch-size", 8, "--epsilon", "11/255")
    assert EvaluationResult.load(tmp_path / "adv.json").metrics["top1_fgsm"] == 0.0


def test_a_null_attack_is_written_and_ends_with_its_own_exit_code(command, tmp_path):
    done = command("--attacks", "pgd", "--epsilon", "0", "--num-images", 6)
    assert done.exit_code == NULL_EXIT_CODE
    assert "pgd is null: it left all 6 inputs as they were after 60 images forwarded" in done.output
    result = EvaluationResult.load(tmp_path / "adv.json")
    assert result.partial
    assert len(result.protocol.parameters["indices"]) == 6
    assert result.protocol.parameters["attacks"]["pgd"]["null"]


def test_bad_flags_and_the_missing_library_are_one_line(command, tmp_path, monkeypatch):
    for flags, text in (
        (["--attacks", "deepfool"], "known are fgsm"),
        (["--epsilon", "big"], "'big' is neither a number nor a fraction"),
        (["--epsilon", "8"], "epsilon=8.0: pixels lie in [0, 1]"),
        (["--num-images", 21], "its test split has 20; give a number from 1"),
    ):
        done = command(*flags)
        assert done.exit_code == 1
        assert text in str(done.exception)
    monkeypatch.setitem(sys.modules, "torchattacks", None)
    assert "pip install --no-deps torchattacks==3.5.1" in str(command().exception)
    assert not (tmp_path / "adv.json").exists()


def test_fractions_are_read():
    assert parse_fraction("8/255") == 8 / 255
    assert parse_fraction("0.03") == 0.03
    with pytest.raises(ValueError, match="neither"):
        parse_fraction("8/0")
