"""Train a linear classifier on frozen features (paper section 7.5), all learning rates of the grid in one run.

    python -m trainers.linear_probe --model synco-v2-deit-s --dataset imagenet-1k --output-dir runs/probe
    synco-hub linear-probe --model facebook/dino-vits16 --dataset ./photographs --output-dir runs/dino

Time: the cost of 100 epochs of forward passes, the grid included (about 14 GPU hours for DeiT-S on ImageNet).
Expected (paper, Table 13, ImageNet top-1): SynCo-v2 73.1 % on DeiT-S/16 and 75.4 % on Swin-T/7.
"""

from __future__ import annotations

from trainers.classification.settings import LabelledDataArguments, LinearProbeOptions
from trainers.command import Command

EXAMPLE = (
    "synco-hub linear-probe --model synco-v2-deit-s --dataset ./photographs --output-dir runs/probe "
    "--num-train-epochs 100"
)
COMMAND = Command(
    "synco-hub linear-probe",
    __doc__ or "",
    EXAMPLE,
    (LabelledDataArguments, LinearProbeOptions),
    "trainers.classification.arguments:LINEAR_PROBE_KINDS",
    "trainers.classification.linear_probe:run",
    ("model", "dataset", "output_dir", "resume", "num_train_epochs", "max_steps", "learning_rates"),
)
main = COMMAND.main

if __name__ == "__main__":
    COMMAND.run_as_program()
