"""Token dropout: a ViT's branch leaves out patches at random while it trains, so that a step is cheaper.

Source: PatchDropout (Liu et al. 2022, https://arxiv.org/abs/2208.07220). The paper of SynCo-v2 does not use it.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from timm.layers import PatchDropout  # type: ignore[attr-defined]
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from synco_hub.models.backbones_synco import is_vision_transformer
from trainers.compilation import expect_other_lengths
from trainers.settings import PretrainingOptions, PretrainingSettings


class TokenDropout(PatchDropout):
    """timm's dropout of patch tokens: in training alone, at least one stays, and all tokens before the patches.

    A compiler runs it as it is: of each number of tokens in a cool-down it would make a graph of its own, and give up
    after eight.
    """

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, x: Tensor) -> Tensor:
        """Draw for each image which tokens stay. Shape: (batch, tokens, dim) to (batch, fewer tokens, dim)."""
        kept: Tensor = super().forward(x)
        expect_other_lengths(kept)
        return kept


def add_token_dropout(backbone: Any, share: float, name: str) -> None:
    """Let a backbone leave out tokens in training, where timm has a place for it; a share of 0 leaves it as it is.

    Raises:
        ValueError: If the backbone is a Swin.
    """
    if not share:
        return
    if not is_vision_transformer(backbone):
        raise ValueError(
            f"{name}={share} is for a ViT, whose patches are one sequence; a Swin attends in windows, where none may "
            f"be missing: leave --{name.replace('_', '-')} out, or give a ViT such as --backbone deit-s."
        )
    backbone.patch_drop = TokenDropout(share, backbone.num_prefix_tokens)


def refuse_idle_cooldown(settings: PretrainingSettings, options: PretrainingOptions) -> None:
    """Refuses the end of what does not begin."""
    cooldown = options.token_dropout_cooldown_epochs
    if cooldown is not None and not settings.token_dropouts:
        raise ValueError(
            f"--token-dropout-cooldown-epochs {cooldown:g} has no effect without token dropout: add --token-dropout "
            "0.5 or the like, or leave it out."
        )


class TokenDropping(Protocol):
    """What `TokenDropoutCallback` asks of `SynCoTrainer`."""

    @property
    def unwrapped_model(self) -> Any:
        """The model without wrappers."""
        ...

    def plan_token_dropout(self, step: int, total_steps: int) -> dict[str, float]:
        """Share of tokens that each branch leaves out in the step after so many."""
        ...


class TokenDropoutCallback(TrainerCallback):
    """Sets before every optimizer step how many tokens its branches leave out.

    That is a function of the step alone, so a resumed run goes on with what the step has.
    """

    def __init__(self, trainer: TokenDropping) -> None:
        self.trainer = trainer

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """`state.global_step` counts the steps before this one."""
        model = self.trainer.unwrapped_model
        branches = {"token_dropout": model.synco, "target_token_dropout": model.target}
        for name, share in self.trainer.plan_token_dropout(state.global_step, state.max_steps).items():
            branches[name].backbone.patch_drop.prob = share
