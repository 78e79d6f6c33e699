"""Every command and snippet of README and site does what it says, on small stand-ins for what the reader has.

A block that is not run says why, in a comment above it: `<!-- not run: needs a GPU -->`. The blocks of a page are run
one after the other, in a folder with what the page says that the reader has; its Python shares one scope.
"""

import os
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import invoke
from composed_pictures import draw_cut_outs, draw_photographs, write_pictures
from PIL import Image
from transformers import AutoImageProcessor

from trainers import fine_tune, linear_probe, pretrain

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PAGES = {path.name: path.read_text(encoding="utf-8") for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]}
BLOCK = re.compile(r"(?:<!-- not run: ([^>]+?) -->\n+)?^([ ]*)```(\w*)\n(.*?)^\2```", re.MULTILINE | re.DOTALL)
# Reasons begin with what is missing here, or what the block would do.
REASONS = ("needs ", "installs ", "takes ", "trains ", "pretrains ", "serves ", "they install")

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
IN_PYTHON = {"max_steps=20": "max_steps=2, use_cpu=True, dataloader_num_workers=0"}
# What a page says that another page made.
FIRST = "synco-hub pretrain --dataset ./photographs --output-dir runs/first"
PREPARED = {
    "README.md": ["synco-hub embed --model synco-v2-vit-nano --dataset ./photographs --output photographs.parquet"],
    "how-to-share.md": [FIRST],
}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    reason: str
    language: str
    text: str


def read_blocks(page: str, text: str) -> list[Block]:
    return [
        Block(page, found[1] or "", found[3], re.sub(rf"^{found[2]}", "", found[4], flags=re.MULTILINE))
        for found in BLOCK.finditer(text)
    ]


BLOCKS = [block for page, text in PAGES.items() for block in read_blocks(page, text)]
# A page may have a test file of its own, which runs its blocks with what they need.
HAVE_THEIR_OWN = {page for page in PAGES if (HERE / f"test_{Path(page).stem.replace('-', '_')}.py").is_file()}
WITH_BLOCKS = sorted(
    {block.page for block in BLOCKS if block.language in ("bash", "python") and not block.reason} - HAVE_THEIR_OWN
)


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    """The fractals, drawn once for all pages."""
    return tmp_path_factory.mktemp("drawn")


@pytest.fixture
def reader(tmp_path, drawn, monkeypatch):
    """Folders with photographs, with and without classes, and an image; nothing is installed: what is named ships."""
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "data").symlink_to(drawn)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    pixels = torch.randint(0, 256, (20, 48, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    (tmp_path / "photographs").mkdir()
    for index, image in enumerate(pixels.numpy()):
        # Names that `datasets` would read as splits are nothing unusual.
        name = {3: "toy-train", 5: "test-5", 6: "val.6"}.get(index, str(index))
        Image.fromarray(image).save(tmp_path / "photographs" / f"{name}.jpg")
        (tmp_path / "flowers" / f"class {index % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "flowers" / f"class {index % 2}" / f"{index}.jpg")
    Image.fromarray(pixels[0].numpy()).save(tmp_path / "image.jpg")
    for split in ("train", "test"):
        write_pictures(tmp_path / "masked", split, 4, draw_photographs(), draw_cut_outs())
    monkeypatch.chdir(tmp_path)

    def run_here(path: str, argv: list[str]) -> None:
        assert argv[:2] == [path, "-m"]
        trainer, flags = TRAINERS[argv[2]]
        trainer([*argv[3:], *(f"{TINY} {TINY_START}".split() if "--start-from" in argv else flags)])

    monkeypatch.setattr(os, "execv", run_here)
    return tmp_path


def run_commands(text: str) -> None:
    for line in text.replace("\\\n", " ").splitlines():
        arguments = shlex.split(line, comments=True)
        if not arguments:
            continue
        assert arguments[0] == "synco-hub", f"{line!r}: mark the block as not run, with the reason"
        arguments = arguments[1:] + SHORT.get(" ".join(arguments[1:3]), "").split()
        result = invoke(arguments)
        assert result.exit_code == 0, (line, result.output, result.exception)
        for path in re.findall(r"--(?:output|output-dir|figure|plot) (\S+)", line):
            assert Path(path).exists(), path


def what_the_reader_has() -> dict[str, Any]:
    """An image, and the vectors of a contrastive loop."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(4096 + 16, 32, generator=generator), dim=1)
    return {
        "image": Image.open("image.jpg"),
        "query": vectors[:8].requires_grad_(),
        "key": vectors[8:16],
        "queue": vectors[16:],
    }


def check_readme(scope: dict[str, Any]) -> None:
    assert scope["outputs"].pooler_output.ndim == 2
    assert len(scope["outputs"].attentions) == 3
    scope["loss"].backward()
    assert torch.isfinite(scope["loss"])


def check_own_data(scope: dict[str, Any]) -> None:
    name, weights = next(iter(scope["model"].named_parameters()))
    assert torch.equal(weights, dict(scope["network"].synco.named_parameters())[name])
    processor = AutoImageProcessor.from_pretrained("runs/from-python")
    assert scope["model"](**processor(Image.open("image.jpg"), return_tensors="pt")).pooler_output.ndim == 2
    assert torch.isfinite(scope["loss"])


def check_dense(scope: dict[str, Any]) -> None:
    logits = scope["network"].eval()(torch.zeros(1, 3, 64, 80)).logits
    assert logits.shape[-2:] == (64, 80)


def check_window(scope: dict[str, Any]) -> None:
    assert scope["synthetic_epochs"](300) == range(30, 200)
    assert scope["synthetic_epochs"](100) == range(10, 67)
    assert scope["target_momentum"](150, 300) == pytest.approx(0.995)


def check_negatives(scope: dict[str, Any]) -> None:
    assert {kind: tuple(made.shape) for kind, made in scope["made"].items()}.popitem()[1] == (8, 128, 256)
    assert len(scope["made"]) == 6


CHECKS: dict[str, Callable[[dict[str, Any]], None]] = {
    "README.md": check_readme,
    "how-to-own-data.md": check_own_data,
    "how-to-dense.md": check_dense,
    "understand-window.md": check_window,
    "understand-negatives.md": check_negatives,
}


@pytest.mark.parametrize("page", WITH_BLOCKS)
def test_the_blocks_of_a_page_run_one_after_the_other(page, reader):
    scope = what_the_reader_has()
    for line in PREPARED.get(page, []):
        run_commands(line)
    for block in (block for block in BLOCKS if block.page == page and not block.reason):
        if block.language == "bash":
            run_commands(block.text)
        elif block.language == "python":
            text = block.text
            for long, short in IN_PYTHON.items():
                text = text.replace(long, short)
            exec(compile(text, page, "exec"), scope)
    CHECKS.get(page, lambda scope: None)(scope)


def test_pages_have_commands_and_snippets():
    assert set(CHECKS) | set(PREPARED) <= set(WITH_BLOCKS)
    assert sum(block.language == "bash" and not block.reason for block in BLOCKS) >= 15
    assert sum(block.language == "python" and not block.reason for block in BLOCKS) >= 8
    assert "make demo" in PAGES["README.md"]
    assert "make test" in PAGES["README.md"]


def test_every_block_is_run_or_says_why_not():
    for block in BLOCKS:
        assert block.language in ("bash", "python", "text", "json"), f"{block.page}: a block of no language"
        if block.reason:
            assert block.reason.startswith(REASONS), (block.page, block.reason)
    fences = sum(len(re.findall(r"^ *```", text, re.MULTILINE)) for text in PAGES.values())
    assert fences == 2 * len(BLOCKS)


def test_a_block_is_read_with_its_reason_and_without_its_indentation():
    text = "<!-- not run: needs a GPU -->\n```bash\nnvidia-smi\n```\n\n- so:\n\n  ```python\n  a = 1\n  ```\n"
    gpu, indented = read_blocks("page.md", text)
    assert (gpu.reason, gpu.language, gpu.text) == ("needs a GPU", "bash", "nvidia-smi\n")
    assert (indented.reason, indented.language, indented.text) == ("", "python", "a = 1\n")


def test_every_file_named_exists():
    for page, text in PAGES.items():
        named = re.findall(r"`(?:python )?((?:synco_hub|trainers|tests|space_app|model_cards|docs)/[\w./-]+)`", text)
        for path in named:
            assert page == "CHANGELOG.md" or (ROOT / path).exists(), (page, path)
