"""Every command and snippet of the README does what it says, on small stand-ins for what the reader has."""

import os
import re
import shlex
from pathlib import Path

import pytest
import torch
from command_line import invoke
from composed_pictures import draw_cut_outs, draw_photographs, write_pictures
from PIL import Image
from transformers import AutoImageProcessor

from trainers import fine_tune, linear_probe, pretrain

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^synco-hub .+$", README, re.MULTILINE)
SNIPPETS = re.findall(r"```python\n(.+?)```", README, re.DOTALL)
# Added behind the reader's own flags, so that a run of days is one of seconds.
TINY = "--use-cpu --dataloader-num-workers 0 --max-steps 1 --disable-tqdm true --per-device-train-batch-size 4"
TINY_NETWORK = "--backbone vit-nano --depth 1 --queue-size 16 --num-hard-negatives 4 --projection-hidden-dim 16"
TRAINERS = {
    "trainers.pretrain": (pretrain.main, f"{TINY} {TINY_NETWORK}".split()),
    "trainers.linear_probe": (linear_probe.main, TINY.split()),
    "trainers.fine_tune": (fine_tune.main, TINY.split()),
}
# A run that goes on from weights has their network.
TINY_START = "--queue-size 16 --num-hard-negatives 4 --projection-hidden-dim 16 --knn-images 10"
# The same for what is measured: fewer images, and the attacks that take a moment.
SHORT = {
    "evaluate robustness": "--num-images 4",
    "evaluate adversarial": "--num-images 4 --attacks fgsm,pgd",
    "average synco-v2-vit-nano": "--num-images 40 --num-workers 0",
    "evaluate segmentation": "--steps 20",
}


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """Folders with photographs, with and without classes, and an image; nothing is installed: what is named ships."""
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path / "home"))
    pixels = torch.randint(0, 256, (20, 48, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    (tmp_path / "photographs").mkdir()
    for index, image in enumerate(pixels.numpy()):
        Image.fromarray(image).save(tmp_path / "photographs" / f"{index}.jpg")
        (tmp_path / "flowers" / f"class {index % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "flowers" / f"class {index % 2}" / f"{index}.jpg")
    Image.fromarray(pixels[0].numpy()).save(tmp_path / "image.jpg")
    for split in ("train", "test"):
        write_pictures(tmp_path / "masked", split, 4, draw_photographs(), draw_cut_outs())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_readme_has_commands_and_snippets():
    assert len(COMMANDS) >= 12
    assert len(SNIPPETS) >= 2
    assert "make demo" in README
    assert "make test" in README


def test_every_command_runs_one_after_the_other(reader, monkeypatch):
    def run_here(path: str, argv: list[str]) -> None:
        assert argv[:2] == [path, "-m"]
        trainer, flags = TRAINERS[argv[2]]
        trainer([*argv[3:], *(f"{TINY} {TINY_START}".split() if "--start-from" in argv else flags)])

    monkeypatch.setattr(os, "execv", run_here)
    for command in COMMANDS:
        arguments = shlex.split(command)[1:]
        arguments += SHORT.get(" ".join(arguments[:2]), "").split()
        result = invoke(arguments)
        assert result.exit_code == 0, (command, result.output, result.exception)
    for path in re.findall(r"--output(?:-dir)? (\S+)", " ".join(COMMANDS)):
        assert Path(path).exists(), path


def test_loading_in_four_lines(reader):
    scope = {"image": Image.open("image.jpg")}
    exec(SNIPPETS[0], scope)
    assert scope["outputs"].pooler_output.ndim == 2
    assert len(scope["outputs"].attentions) == 3


def test_the_synthetic_negatives_in_anyones_loop():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(4096 + 16, 32, generator=generator), dim=1)
    scope = {"query": vectors[:8].requires_grad_(), "key": vectors[8:16], "queue": vectors[16:]}
    exec(SNIPPETS[1], scope)
    scope["loss"].backward()
    assert torch.isfinite(scope["loss"])


def test_pretraining_on_own_images_from_python(reader, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(reader / "cache"))
    [snippet] = [snippet for snippet in SNIPPETS if "SynCoTrainer(" in snippet]
    assert len(snippet.splitlines()) <= 12
    scope = {}
    exec(snippet.replace("max_steps=20", "max_steps=2, use_cpu=True, dataloader_num_workers=0"), scope)
    assert scope["trainer"].state.global_step == 2
    name, weights = next(iter(scope["model"].named_parameters()))
    assert torch.equal(weights, dict(scope["network"].synco.named_parameters())[name])
    processor = AutoImageProcessor.from_pretrained("runs/own")
    assert scope["model"](**processor(Image.open("image.jpg"), return_tensors="pt")).pooler_output.ndim == 2


def test_a_backbone_under_a_segmentation_head(reader):
    [snippet] = [snippet for snippet in SNIPPETS if "AutoBackbone" in snippet]
    scope = {}
    exec(snippet, scope)
    logits = scope["network"].eval()(torch.zeros(1, 3, 64, 80)).logits
    assert logits.shape[-2:] == (64, 80)


def test_every_file_named_exists():
    for path in re.findall(
        r"`(?:python )?((?:synco_hub|trainers|tests|space_app|model_cards|docs)/[\w./-]+)`", README
    ):
        assert (ROOT / path).exists(), path
