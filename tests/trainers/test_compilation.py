"""With `--torch-compile` each network is compiled once, and nothing anew in the middle of a run."""

import re

import pytest
import torch
from safetensors.torch import load_file
from torch._dynamo.utils import counters
from transformers import TrainingArguments

from synco_hub.models import SynCoConfig, SynCoModel, image_processor
from trainers import compilation
from trainers.fine_tune import main as fine_tune
from trainers.linear_probe import main as linear_probe
from trainers.pretrain import main as pretrain
from trainers.pretraining_model import SynCoForPreTraining
from trainers.pretraining_trainer import SynCoTrainer

# Six steps of two epochs, the third and fourth with synthetic negatives.
PRETRAIN = (
    "--depth 1 --queue-size 32 --num-hard-negatives 8 --projection-hidden-dim 16 --projection-dim 8 "
    "--per-device-train-batch-size 4 --dataloader-num-workers 0 --use-cpu --logging-steps 1 --max-steps 6 "
    "--disable-tqdm true --synthetic-warmup-epochs 0.67 --synthetic-cooldown-epochs 0.67 "
    "--dataset fractals:num_classes=2,train_images_per_class=6,test_images_per_class=3,image_size=32"
).split()
LABELLED = (
    "--use-cpu --dataloader-num-workers 0 --disable-tqdm true --per-device-train-batch-size 20 --logging-steps 1 "
    "--per-device-eval-batch-size 20 --num-train-epochs 2 --dataset "
    "fractals:num_classes=3,train_images_per_class=16,test_images_per_class=9,image_size=32"
).split()


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path_factory.getbasetemp() / "compilation-home"))


@pytest.fixture
def graphs(monkeypatch):
    """One entry for each graph that is compiled: how many operations it has."""
    torch.compiler.reset()
    found: list[int] = []

    def count(graph, inputs):
        found.append(len(graph.graph.nodes))
        return graph.forward

    monkeypatch.setattr(
        compilation, "compile_options", lambda args: {"backend": count, "mode": args.torch_compile_mode}
    )
    yield found
    torch.compiler.reset()


@pytest.fixture
def steps(monkeypatch, graphs):
    """How many graphs there were after each forward of pretraining, and whether it made synthetic negatives."""
    seen: list[tuple[int, bool]] = []
    forward = SynCoForPreTraining.forward

    def watched(self, *args, synthetic_active=False, **kwargs):
        output = forward(self, *args, synthetic_active=synthetic_active, **kwargs)
        seen.append((len(graphs), synthetic_active))
        return output

    monkeypatch.setattr(SynCoForPreTraining, "forward", watched)
    return seen


@pytest.mark.parametrize(
    ("backbone", "flags", "expected"),
    [
        ("vit-nano", [], 4),
        ("vit-nano", ["--bf16", "--gradient-accumulation-steps", "1"], 4),
        ("vit-nano", ["--method", "moby", "--gradient-checkpointing"], 3),
        ("swin-nano", ["--depth", "1", "1"], 4),
    ],
)
def test_all_is_compiled_before_the_second_step(backbone, flags, expected, tmp_path, steps, graphs, caplog):
    pretrain([*PRETRAIN, "--output-dir", str(tmp_path / "run"), "--backbone", backbone, "--torch-compile", *flags])
    synthesises = "moby" not in flags
    assert [active for _, active in steps] == [synthesises and step in (2, 3) for step in range(6)]
    # Two networks, and the objective with and without synthetic negatives.
    assert [count for count, _ in steps] == [expected] * 6
    assert len(graphs) == expected
    told = re.search(r"torch.compile: ([\d.]+) s at the start \(([\d.]+) s before", caplog.text)
    assert told is not None
    assert float(told[1]) >= float(told[2]) > 0
    names = load_file(tmp_path / "run" / "checkpoint-6" / "model.safetensors").keys()
    assert not [name for name in names if "_orig_mod" in name]


def test_a_cool_down_of_token_dropout_compiles_nothing_anew(tmp_path, steps, graphs):
    flags = ["--token-dropout", "0.8", "--target-token-dropout", "0.5", "--token-dropout-cooldown-epochs", "4"]
    size = ["--image-size", "64", "--max-steps", "12"]
    pretrain([*PRETRAIN, *flags, *size, "--output-dir", str(tmp_path), "--backbone", "vit-nano", "--torch-compile"])
    # Before the twelve, what a step costs was measured, uncompiled.
    counts = [count for count, _ in steps][-12:]
    # More numbers of tokens than a compiler tries before it gives up. What takes [CLS] from the last block is a graph
    # for itself, which is made once more for any number.
    assert counts[2:] == [counts[2]] * 10
    assert counts[2] - counts[0] <= 2
    assert not [size for size in graphs[counts[0] :] if size > 9]


def test_neither_a_measurement_nor_a_resume_compiles_anything_anew(tmp_path, steps, graphs):
    run = [*PRETRAIN, "--backbone", "vit-nano", "--output-dir", str(tmp_path), "--torch-compile", "--save-steps", "3"]
    run += ["--knn-every-epochs", "1"]
    pretrain(run)
    assert [count for count, _ in steps] == [4] * 6
    whole = load_file(tmp_path / "model.safetensors")
    (tmp_path / "checkpoint-6").rename(tmp_path / "later")
    torch.compiler.reset()  # another process
    graphs.clear()
    steps.clear()
    pretrain([*run, "--resume"])
    assert [count for count, _ in steps] == [4] * 3
    resumed = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())


def test_a_rehearsal_leaves_no_trace(graphs):
    model = SynCoForPreTraining(SynCoConfig(backbone="vit-nano", depth=1)).train()
    model.compile(**compilation.compile_options(TrainingArguments(use_cpu=True)))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    before = torch.get_rng_state()
    model.rehearse_objective(4, [False, True])
    assert len(graphs) == 2
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("train", [linear_probe, fine_tune])
def test_a_last_smaller_batch_compiles_nothing_anew(train, tmp_path, graphs):
    network = SynCoModel(SynCoConfig(backbone="vit-nano", depth=1))
    network.save_pretrained(tmp_path / "model")
    image_processor(32).save_pretrained(tmp_path / "model")
    train([*LABELLED, "--model", str(tmp_path / "model"), "--output-dir", str(tmp_path / "run"), "--torch-compile"])
    # Fine-tuning measures in another mode than it trains in; 48 and 27 images are no multiples of 20.
    assert len(graphs) == (1 if train is linear_probe else 2)
    saved = load_file(tmp_path / "run" / "model.safetensors")
    assert {name.split(".")[0] for name in saved} == {"synco", "classifier"}


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_by_inductor_too_nothing_is_compiled_after_the_first_step(tmp_path, monkeypatch):
    torch.compiler.reset()
    counts: list[int] = []
    training_step = SynCoTrainer.training_step

    def counted(*args, **kwargs):
        loss = training_step(*args, **kwargs)
        counts.append(counters["stats"]["unique_graphs"])
        return loss

    monkeypatch.setattr(SynCoTrainer, "training_step", counted)
    counters.clear()
    pretrain([*PRETRAIN, "--output-dir", str(tmp_path / "run"), "--backbone", "vit-nano", "--torch-compile"])
    assert counts == [4] * 6
