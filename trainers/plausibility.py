"""Settings that a run may have and that rarely teach a network anything: said before the first step, never refused.

The defaults are the paper's, for a million images. On a few hundred most of them do not fit, and no loss tells.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from transformers.training_args import OptimizerNames

from synco_hub.models import SynCoConfig
from trainers.objectives import OBJECTIVES
from trainers.pretraining_arguments import SynCoTrainingArguments
from trainers.settings import PretrainingSettings
from trainers.start_settings import START_RATE_FACTOR

# For how many images each recipe of `recipes/small.yaml` is, and from how many on the paper's settings are.
SMALL_RECIPES = {"small/300": 1_000, "small/3000": 10_000, "small/30000": 100_000}
# The largest queue of those recipes: who has one so small is beyond what they could tell.
_SMALL_QUEUE = 1_024
# The paper's heads are 11 times as wide as DeiT-S, 5 times as Swin-T.
_WIDEST_HEADS = 16
# Weights begin at a few hundredths: what moves them less leaves the network as it was drawn.
_LEAST_WAY = 0.05
# A third of the paper's peak; with fewer images than a recipe is for there are few steps to make up for it.
_LEAST_PEAK = 5e-5
_HIGH_ENOUGH = 5e-4


@dataclass(frozen=True)
class PlannedRun:
    """What a run is going to be, once its length is known.

    Attributes:
        settings: Network and objective.
        width: Width of the backbone's feature.
        num_images: Images of an epoch.
        batch: Images of an optimizer step, over all processes.
        steps: Optimizer steps of the run.
        steps_per_epoch: Optimizer steps of an epoch.
        peak: Peak learning rate.
        base: The base rate it was scaled from, None where it was given.
        adam: Whether a step moves each weight by about the rate.
        warmup_steps: Steps of the learning rate's warm-up.
        window: Steps with synthetic negatives.
        last_epoch: Where `--synthetic-last-epoch` ends them.
        started: Whether it goes on from weights.
    """

    settings: PretrainingSettings
    width: int
    num_images: int
    batch: int
    steps: int
    steps_per_epoch: float
    peak: float
    base: float | None
    adam: bool
    warmup_steps: int
    window: range
    last_epoch: float | None = None
    started: bool = False

    @property
    def recipe(self) -> str:
        """The recipe for so many images, as the end of a remedy; nothing where there is none."""
        name = choose_small_recipe(self.num_images)
        return "" if name is None or self.settings.queue_size <= _SMALL_QUEUE else f", or --recipe {name}"


def choose_small_recipe(num_images: int) -> str | None:
    """The recipe for a data set of this size; None where the paper's settings are."""
    return next((name for name, below in SMALL_RECIPES.items() if num_images < below), None)


def plan_run(
    args: SynCoTrainingArguments,
    config: SynCoConfig,
    num_images: int,
    steps: int,
    steps_per_epoch: float,
    window: range,
    started: bool = False,
) -> PlannedRun:
    """Gather what is looked at."""
    return PlannedRun(
        settings=PretrainingSettings.from_dict(config.pretraining),
        width=config.hidden_size,
        num_images=num_images,
        batch=args.global_batch_size,
        steps=steps,
        steps_per_epoch=steps_per_epoch,
        peak=args.learning_rate or 0.0,
        base=args.base_learning_rate if args.given_learning_rate is None else None,
        adam="adam" in OptimizerNames(args.optim).value,
        warmup_steps=args.count_warmup_steps(steps, steps_per_epoch),
        window=window,
        last_epoch=args.synthetic_last_epoch,
        started=started,
    )


def find_misfits(run: PlannedRun) -> list[str]:
    """One line for each setting that does not fit the data, the network or the length of the run."""
    return [*_find_queue_misfits(run), *_find_head_misfits(run), *_find_rate_misfits(run), *_find_window_misfits(run)]


def _find_queue_misfits(run: PlannedRun) -> Iterator[str]:
    settings, objective = run.settings, OBJECTIVES[run.settings.method]
    if not objective.has_queue:
        return
    queue = settings.queue_size
    if queue < run.batch:
        yield (
            f"--queue-size {queue}: a step puts the keys of {run.batch} images into it, the last {queue} stay: "
            f"give at least {run.batch}."
        )
    if queue > run.num_images:
        fitting = 1 << max(run.num_images.bit_length() - 1, 0)
        yield (
            f"--queue-size {queue}: the data set has {run.num_images} images, so each is in the queue about "
            f"{queue / run.num_images:.1f} times, and views of one image are pushed apart: give at most "
            f"{fitting}{run.recipe}."
        )
    elif run.steps * run.batch < queue:
        yield (
            f"--queue-size {queue}: the run has {run.steps} steps of {run.batch} images, so random vectors stay in "
            "the queue to its end: give less, or train longer."
        )
    made = sum(settings.counts.values())
    if objective.synthesises and (2 * settings.num_hard_negatives > queue or made > queue):
        yield (
            f"--num-hard-negatives {settings.num_hard_negatives}, {made} synthetic negatives, --queue-size {queue}: "
            "the paper has 256 and 768 of 4096, so that hard ones are a choice and real ones the most: give "
            f"--num-hard-negatives {max(queue // 16, 1)}, and {max(queue // 32, 1)} of each kind, --num-mixup and the "
            f"like{run.recipe}."
        )


def _find_head_misfits(run: PlannedRun) -> Iterator[str]:
    hidden = run.settings.projection_hidden_dim
    if hidden > _WIDEST_HEADS * run.width:
        yield (
            f"--projection-hidden-dim {hidden}: the network's feature has {run.width} numbers, and heads so much "
            "wider solve the task in its place (the paper's are 5 to 11 times as wide): give about "
            f"{_round_to_power(5 * run.width)}{run.recipe}."
        )


def _find_rate_misfits(run: PlannedRun) -> Iterator[str]:
    # Weights that are good already are to move less.
    least = START_RATE_FACTOR if run.started else 1.0
    way = run.peak * run.steps / 2
    if run.adam and (
        way < least * _LEAST_WAY or (run.peak < least * _LEAST_PEAK and choose_small_recipe(run.num_images))
    ):
        # At a rate of the recipes' order only the run is too short.
        rate = f"{least * 1e-3:.0e}".replace("e-0", "e-")
        raised = f"give --learning-rate {rate} for a small network, or " if run.peak < least * _HIGH_ENOUGH else ""
        start = "start" if run.started else "random start"
        scaled = "" if run.base is None else f", --base-learning-rate {run.base:g} × {run.batch} images a step / 512"
        yield (
            f"the learning rate peaks at {run.peak:.2g}{scaled}: over {run.steps} steps it moves a weight by "
            f"{way:.2g} at most, and the network stays near its {start}: {raised}train longer{run.recipe}."
        )
    if run.warmup_steps >= run.steps > 1:
        yield (
            f"The warm-up of {run.warmup_steps} steps is as long as the run of {run.steps}: the learning rate only "
            f"rises. Lower --warmup-epochs, or train longer{run.recipe}."
        )


def _find_window_misfits(run: PlannedRun) -> Iterator[str]:
    if not OBJECTIVES[run.settings.method].synthesises:
        return
    if not run.window:
        yield (
            f"The synthesis window is empty ({run.steps} steps in all): no synthetic negative will be made. Lower "
            f"--synthetic-warmup-epochs or --synthetic-cooldown-epochs, or train longer{run.recipe}."
        )
    elif not sum(run.settings.counts.values()):
        yield (
            "All counts of synthetic negatives are 0, so --method synco-v2 trains as moby does: give --num-mixup 128 "
            "and the like, or --method moby."
        )
    elif run.last_epoch is not None and (run.last_epoch + 1) * run.steps_per_epoch > run.steps:
        yield (
            f"--synthetic-last-epoch {run.last_epoch:g} lies behind the run of "
            f"{run.steps / run.steps_per_epoch:.3g} epochs, so synthetic negatives are made to its end: give less, or "
            "--synthetic-cooldown-epochs."
        )


def _round_to_power(number: int) -> int:
    """The nearest power of two, by its logarithm."""
    lower = 1 << (number.bit_length() - 1)
    return lower if number * number < 2 * lower * lower else 2 * lower
