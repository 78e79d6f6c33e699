"""Pretrain a vision transformer by SynCo-v2, MoBY or BYOL (paper section 7.4).

    python -m trainers.pretrain --method synco-v2 --backbone deit-s --dataset PATH --output-dir runs/first
    synco-hub pretrain --recipe synco-v2-deit-s --dataset imagenet-1k --output-dir runs/synco-v2-deit-s

Expected: the paper reports 73.1 % linear top-1 on ImageNet for SynCo-v2 on DeiT-S/16 after 300 epochs (158 hours on
four GPUs); `synco-hub demo` reaches 54 (moby) to 62 % (synco-v2) k-NN top-1 on fractals in minutes on a CPU.
"""

from __future__ import annotations

from trainers.command import Command
from trainers.settings import (
    BackboneArguments,
    DataArguments,
    PretrainingOptions,
    PretrainingSettings,
    RecipeArguments,
)
from trainers.start_settings import StartArguments
from trainers.view_settings import ViewArguments

EXAMPLE = (
    "synco-hub pretrain --method synco-v2 --backbone deit-s --dataset ./photographs --output-dir runs/first "
    "--num-train-epochs 100 --per-device-train-batch-size 64. Several processes on one machine: add --num-processes "
    "N; on several machines: torchrun -m trainers.pretrain with the same flags."
)
COMMAND = Command(
    "synco-hub pretrain",
    __doc__ or "",
    EXAMPLE,
    (
        *(PretrainingSettings, RecipeArguments, StartArguments, BackboneArguments, ViewArguments, DataArguments),
        PretrainingOptions,
    ),
    "trainers.recipe:KINDS",
    "trainers.pretraining_run:run",
    (
        *("method", "recipe", "backbone", "start_from", "dataset", "output_dir", "resume", "num_train_epochs"),
        *("max_steps", "per_device_train_batch_size", "base_learning_rate", "knn_every_epochs"),
    ),
)
main = COMMAND.main

if __name__ == "__main__":
    COMMAND.run_as_program()
