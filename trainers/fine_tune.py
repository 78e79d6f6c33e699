"""Adapt all weights of a pretrained model to labelled images (paper section 7.6).

    python -m trainers.fine_tune --model synco-v2-deit-s --dataset ./photographs --output-dir runs/fine-tuned
    synco-hub fine-tune --model synco-v2-swin-t --dataset cifar10 --output-dir runs/cifar10

Time: 100 epochs of forward and backward passes (about two GPU hours for DeiT-S on CIFAR-10 at 224 pixels).
Expected: the paper's supplement gives the protocol and no table of its numbers; the result says what came out here.
"""

from __future__ import annotations

from trainers.classification.settings import FineTuningOptions, LabelledDataArguments
from trainers.command import Command

EXAMPLE = (
    "synco-hub fine-tune --model synco-v2-deit-s --dataset ./photographs --output-dir runs/fine-tuned "
    "--num-train-epochs 100"
)
COMMAND = Command(
    "synco-hub fine-tune",
    __doc__ or "",
    EXAMPLE,
    (LabelledDataArguments, FineTuningOptions),
    "trainers.classification.arguments:FINE_TUNING_KINDS",
    "trainers.classification.fine_tune:run",
    ("model", "dataset", "output_dir", "resume", "num_train_epochs", "max_steps", "base_learning_rate"),
)
main = COMMAND.main

if __name__ == "__main__":
    COMMAND.run_as_program()
