"""Do MoBY and BYOL of this package learn as well as lightly's MoCo and BYOL? Same network, data, views and budget.

Run: pip install lightly, then, with the folder of an ablation of fashion-mnist/moby and fashion-mnist/byol,
     python tests/benchmarks/lightly_baselines.py --ablation runs/methods --output-dir runs/lightly

From lightly come heads, losses, memory bank, target update and its schedule; the backbone begins with the weights that
ours has with this seed, and sees views drawn by the same numbers. lightly's MoCo has no predictor, MoBY has one. What
is finished is kept. What was found stands in docs/results.md.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightly.loss import NegativeCosineSimilarity, NTXentLoss
from lightly.models.modules.heads import BYOLPredictionHead, BYOLProjectionHead, MoCoProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum
from lightly.utils.scheduler import cosine_schedule
from torch import nn
from torch.utils.data import DataLoader, Sampler
from tqdm import tqdm
from transformers import get_cosine_schedule_with_warmup, set_seed

from synco_hub.atomic_write import atomic_write
from synco_hub.cli.ablate import RESULT_FILE, read_finished_run, run_name
from synco_hub.cli.ablation_plan import PLAN_FILE
from synco_hub.cli.ablation_tables import FinishedRun, write_tables
from synco_hub.data import TwoViewDataset
from synco_hub.data.views.dataset import TwoViewCollator
from synco_hub.data.views.transform import make_two_view_transform
from synco_hub.evaluation.knn import evaluate as evaluate_knn
from synco_hub.evaluation.measurement import EvaluatedModel
from synco_hub.models import image_processor
from synco_hub.results import EvaluationResult
from synco_hub.settings import DatasetChoice, KnnSettings
from trainers.pretraining_model import SynCoForPreTraining
from trainers.pretraining_run import build_config, open_images
from trainers.pretraining_views import choose_view_parameters
from trainers.recipe import PretrainingRun, parse

ARMS = {"moco": "fashion-mnist/moby", "byol": "fashion-mnist/byol"}
METRIC = "top1_k10"


class Epochs(Sampler[tuple[int, int]]):
    """Epoch and index of every image, in a new order each epoch, until there are enough for the steps."""

    def __init__(self, number: int, wanted: int, seed: int) -> None:
        self.number, self.wanted = number, wanted
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return self.wanted

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for place in range(self.wanted):
            epoch, position = divmod(place, self.number)
            if position == 0:
                order = torch.randperm(self.number, generator=self.generator).tolist()
            yield epoch, order[position]


class Peer(nn.Module):
    """A backbone with lightly's heads, and its target."""

    def __init__(self, kind: str, backbone: Any, run: PretrainingRun) -> None:
        super().__init__()
        width, settings = backbone.config.hidden_size, run.settings
        hidden, out = settings.projection_hidden_dim, settings.projection_dim
        self.kind, self.backbone = kind, backbone
        self.projector: nn.Module = (
            MoCoProjectionHead(width, hidden, out) if kind == "moco" else BYOLProjectionHead(width, hidden, out)
        )
        self.predictor = nn.Identity() if kind == "moco" else BYOLPredictionHead(out, hidden, out)
        self.target = nn.ModuleList([copy.deepcopy(self.backbone), copy.deepcopy(self.projector)])
        deactivate_requires_grad(self.target)
        self.loss = (
            NTXentLoss(settings.temperature, memory_bank_size=(settings.queue_size, out))
            if kind == "moco"
            else NegativeCosineSimilarity()
        )

    def forward(self, view_1: torch.Tensor, view_2: torch.Tensor) -> torch.Tensor:
        """The symmetric loss of a batch. Shape of the views: (batch, 3, height, width)."""
        queries = [self.predictor(self.projector(self.backbone(view).pooler_output)) for view in (view_1, view_2)]
        with torch.no_grad():
            keys = [self.target[1](self.target[0](view).pooler_output) for view in (view_1, view_2)]
        loss: torch.Tensor = (self.loss(queries[0], keys[1]) + self.loss(queries[1], keys[0])) / 2
        return loss

    def follow(self, momentum: float) -> None:
        """Move the target."""
        update_momentum(self.backbone, self.target[0], momentum)
        update_momentum(self.projector, self.target[1], momentum)


def train(kind: str, run: PretrainingRun) -> EvaluatedModel:
    """One run of lightly's modules in the budget of one of ours."""
    given, seed, steps = run.training, run.training.seed, run.training.max_steps
    set_seed(seed)
    ours = SynCoForPreTraining(build_config(run.backbone, run.settings)).synco
    size = ours.config.image_size or 224
    peer = Peer(kind, ours, run).train()
    transform = make_two_view_transform("worker", size, choose_view_parameters(None, run.views))
    images = open_images(run.data, size, seed)[1]
    batch = given.per_device_train_batch_size
    loader = DataLoader(
        TwoViewDataset(images, transform, seed=seed),
        batch,
        sampler=Epochs(len(images), steps * batch, seed),
        num_workers=1,
        collate_fn=TwoViewCollator(),
    )
    trainable = [parameter for parameter in peer.parameters() if parameter.requires_grad]
    decays = [[each for each in trainable if (each.ndim > 1) is wanted] for wanted in (True, False)]
    groups = [{"params": decays[0], "weight_decay": given.weight_decay}, {"params": decays[1], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=given.learning_rate)
    schedule = get_cosine_schedule_with_warmup(optimizer, round(steps * 40 / 300), steps)
    for step, views in enumerate(tqdm(loader, f"lightly's {kind}, seed {seed}", unit="step")):
        loss = peer(views["view_1"], views["view_2"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        peer.follow(cosine_schedule(step, steps, given.momentum_start, 1.0))
    return EvaluatedModel(peer.backbone.eval(), image_processor(size), f"lightly-{kind}-seed{seed}")


def read_or_train(kind: str, seed: int, ablation: Path, directory: Path) -> FinishedRun:
    """A run of lightly's modules, measured as ours are."""
    flags = json.loads((ablation / PLAN_FILE).read_text())["flags"]
    run = parse([f"--recipe={ARMS[kind]}", *flags, f"--seed={seed}", f"--output-dir={directory}"])
    file, clock = directory / RESULT_FILE, directory / "seconds.json"
    if not file.is_file():
        began = time.monotonic()
        model = train(kind, run)
        directory.mkdir(parents=True, exist_ok=True)
        with atomic_write(clock) as temporary:
            temporary.write_text(json.dumps(time.monotonic() - began))
        evaluate_knn(model, choose_data(run), KnnSettings(num_workers=0, progress=False)).save(file)
    return FinishedRun(f"lightly-{kind}", seed, EvaluationResult.load(file).metrics, json.loads(clock.read_text()))


def choose_data(run: PretrainingRun) -> DatasetChoice:
    """The data set of a run."""
    return run.domains["new"]


def main() -> None:
    """Train what is missing, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ablation", type=Path, required=True, help="folder of `synco-hub ablate` with our runs")
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    given = parser.parse_args()
    flags = json.loads((given.ablation / PLAN_FILE).read_text())["flags"]
    choice = choose_data(parse([*flags, "--output-dir=none"]))
    for kind, arm in ARMS.items():
        pairs = []
        for seed in given.seeds:
            theirs = read_or_train(kind, seed, given.ablation, given.output_dir / f"lightly-{kind}-seed{seed}")
            pairs += [theirs, read_finished_run(arm, seed, given.ablation / run_name(arm, seed), choice)]
        place = given.output_dir / kind
        place.mkdir(exist_ok=True)
        table = write_tables(place, pairs, METRIC, {"dataset": choice.dataset}, f"lightly-{kind}")[0]
        print(table.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
