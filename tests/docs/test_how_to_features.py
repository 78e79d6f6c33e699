"""Every command and snippet of docs/how-to-features.md does what it says, on a small folder of drawn pictures."""

import os
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import invoke
from composed_pictures import draw_photographs
from data_trees.original import imagenet_with_official_names
from PIL import Image

from synco_hub.hub.pull import install_checkpoint
from synco_hub.models import SynCoConfig, SynCoModel, image_processor
from synco_hub.results import EvaluationResult
from trainers import pretrain

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to-features.md"
TEXT = PAGE.read_text(encoding="utf-8")
COMMANDS = re.findall(r"^synco-hub .+$", TEXT, re.MULTILINE)
SNIPPETS = re.findall(r"```python\n(.+?)```", TEXT, re.DOTALL)

# Behind the reader's own flags: one epoch in six steps of a small network.
TINY = (
    "--use-cpu --dataloader-num-workers 0 --num-train-epochs 1 --disable-tqdm true --per-device-train-batch-size 4 "
    "--depth 1 --queue-size 16 --num-hard-negatives 4 --projection-hidden-dim 16"
).split()


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """A folder of pictures in classes, a bird, ImageNet with a few of its files, and an installed checkpoint."""
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path / "home"))
    torch.manual_seed(0)
    SynCoModel(SynCoConfig(backbone="vit-nano")).save_pretrained(tmp_path / "run")
    image_processor(32).save_pretrained(tmp_path / "run")
    install_checkpoint(tmp_path / "run", "synco-v2-vit-nano")
    for number, image in enumerate(draw_photographs(24, 40)):
        path = tmp_path / "pictures" / f"class {number % 2}" / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    image.save(tmp_path / "bird.png")
    imagenet_with_official_names(tmp_path / "imagenet")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "execv", lambda path, argv: pretrain.main([*argv[3:], *TINY]))
    return tmp_path


def test_every_command_runs_one_after_the_other(reader):
    assert len(COMMANDS) >= 8
    for command in COMMANDS:
        result = invoke(shlex.split(command)[1:])
        assert result.exit_code == 0, (command, result.output, result.exception)
    for path in re.findall(r"--(?:output|figure|plot) (\S+)", " ".join(COMMANDS)):
        assert Path(path).exists(), path
    few = EvaluationResult.load("few-shot.json").metrics
    assert {"top1_shots1", "top1_shots1_interval95", "top1_shots5"} <= set(few)
    [leak] = [note for note in EvaluationResult.load("seen.json").notes if "pretrained on" in note]
    assert re.match(r"(\d+) of \1 test images of pictures are among the images .*: \1 exact", leak)
    real = EvaluationResult.load("imagenet.json")
    assert "top1_real_k10" in real.metrics
    assert real.notes[-1].startswith("ReaL: ")


def test_the_table_from_python(reader):
    [snippet] = [snippet for snippet in SNIPPETS if "Embeddings" in snippet]
    scope = {}
    exec(snippet, scope)
    assert scope["table"].vectors.shape == (24, 96)


@pytest.mark.extras
def test_sentence_transformers_from_python(reader):
    [command] = [command for command in COMMANDS if "sentence-transformers" in command]
    assert invoke(shlex.split(command)[1:]).exit_code == 0
    [snippet] = [snippet for snippet in SNIPPETS if "SentenceTransformer" in snippet]
    scope = {}
    exec(snippet, scope)
    assert scope["vectors"].shape == (1, 96)
    assert np.isfinite(scope["vectors"]).all()


@pytest.mark.extras
def test_mteb_from_python(reader, monkeypatch):
    """The task's pictures lie on the Hub: here the evaluation is only asked for."""
    import mteb

    asked = []
    monkeypatch.setattr(mteb, "evaluate", lambda model, tasks: asked.append((model, list(tasks))))
    [snippet] = [snippet for snippet in SNIPPETS if "MtebImageModel" in snippet]
    exec(snippet, {})
    [(model, [task])] = asked
    assert model.mteb_model_meta.name == "synco-hub/synco-v2-vit-nano"
    assert task.metadata.modalities == ["image"]


def test_every_picture_is_there_and_small():
    names = re.findall(r"!\[.+?\]\((.+?)\)", TEXT)
    assert names
    for name in names:
        assert (PAGE.parent / name).stat().st_size < 100_000
        Image.open(PAGE.parent / name).verify()
