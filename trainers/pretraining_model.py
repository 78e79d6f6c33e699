"""`SynCoForPreTraining`: online and target network, heads and queues as one model, all its state in one state dict."""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.utils import SAFE_WEIGHTS_NAME
from transformers.utils.generic import ModelOutput

from synco_hub.hub.start import Start, read_start
from synco_hub.models import SynCoConfig, SynCoModel, SynCoPreTrainedModel
from trainers.info_nce import info_nce
from trainers.negative_queue import NegativeQueue
from trainers.objectives import OBJECTIVES, agreement_loss
from trainers.settings import BackboneArguments, PretrainingSettings
from trainers.synthetic_negatives import SyntheticNegatives
from trainers.token_dropout import add_token_dropout

logger = logging.getLogger(__name__)

# What of a configuration makes the backbone.
_BACKBONE = tuple(field.name for field in dataclasses.fields(BackboneArguments))
DRAWN_ANEW = "drawn anew"
_NORMS = {"batch": nn.BatchNorm1d, "none": nn.Identity}


@dataclass
class PretrainingOutput(ModelOutput):  # type: ignore[misc]
    """What one micro-batch yields; everything stays on the device.

    Attributes:
        loss: Sum of both directions. Shape: ().
        contrast_accuracy: Share of queries whose positive beats every negative; None for BYOL. Shape: ().
        feature_std: Spread of the unit-norm features: 1 is even over the sphere, 0 is collapse. Shape: ().
    """

    loss: Tensor | None = None
    contrast_accuracy: Tensor | None = None
    feature_std: Tensor | None = None


class SynCoForPreTraining(SynCoPreTrainedModel):
    """The pretraining network of SynCo-v2, MoBY or BYOL (paper sections 7.2 and 7.4).

    The online backbone is the attribute `synco`, so `AutoModel` loads the features of any checkpoint of a run.

    Args:
        config: The backbone; `config.pretraining` holds `PretrainingSettings` as plain data (None: the paper's).
    """

    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = []  # type: ignore[misc]

    # Of a network that `from_backbone` made: where it is from, for the records, and how its images are prepared.
    start: dict[str, Any] | None = None
    image_processor: Any = None

    def __init__(self, config: SynCoConfig) -> None:
        super().__init__(config)
        self.settings = PretrainingSettings.from_dict(config.pretraining)
        config.pretraining = dataclasses.asdict(self.settings)
        self.objective = OBJECTIVES[self.settings.method]
        self.synco = self._branch(self.settings.online_drop_path_rate or 0.0, "token_dropout")
        self.target = self._branch(self.settings.target_drop_path_rate, "target_token_dropout")
        self.projector = self._head(config.hidden_size)
        self.target_projector = self._head(config.hidden_size)
        self.predictor = self._head(self.settings.projection_dim)
        if self.objective.has_queue:
            self.queue_1 = NegativeQueue(self.settings.queue_size, self.settings.projection_dim)
            self.queue_2 = NegativeQueue(self.settings.queue_size, self.settings.projection_dim)
        if self.objective.synthesises:
            self.synthetic_negatives = build_synthetic_negatives(self.settings)
        if not next(self.projector.parameters()).is_meta:
            copy_parameters(self.synco, self.target)
            copy_parameters(self.projector, self.target_projector)
        self.freeze_fixed_parameters()
        self.post_init()  # type: ignore[no-untyped-call]

    def _branch(self, drop_path_rate: float, token_dropout: str) -> SynCoModel:
        """One backbone; stochastic depth and token dropout are not in the config that features are loaded by."""
        config: Any = copy.deepcopy(self.config)
        config.drop_path_rate = drop_path_rate
        branch = SynCoModel(config)
        self.config.hidden_size = config.hidden_size
        branch.config = self.config
        add_token_dropout(branch.backbone, getattr(self.settings, token_dropout), token_dropout)
        return branch

    def _head(self, input_dim: int) -> nn.Sequential:
        settings = self.settings
        return make_projection_head(
            input_dim, settings.projection_hidden_dim, settings.projection_dim, settings.head_norm
        )

    def freeze_fixed_parameters(self) -> SynCoForPreTraining:
        """Freeze the target branch and the fixed position embeddings; needed again after every load."""
        super().freeze_fixed_parameters()
        for module in (self.target, self.target_projector):
            module.requires_grad_(False)
        return self

    @classmethod
    def from_backbone(
        cls,
        start: str | Path | Start,
        pretraining: PretrainingSettings | Mapping[str, Any] | None = None,
        image_size: int | None = None,
        revision: str | None = None,
    ) -> SynCoForPreTraining:
        """A network that goes on from weights: both branches are the start, heads and queues its own where they fit.

        Args:
            start: A short name, checkpoint, run or stock model's directory, file of weights, Hub id, or timm:<name>.
            pretraining: Method and objective of the new training; None: the paper's.
            image_size: Side of the views in pixels, where it shall be another than the start's.
            revision: Commit, branch or tag on the Hub.

        Returns:
            The network; its `start` says where it is from, its `image_processor` is the start's.

        Raises:
            ValueError: If the start is no ViT or Swin of this package, or has register tokens.
        """
        begun = start if isinstance(start, Start) else read_start(str(start), revision, image_size)
        settings = (
            pretraining
            if isinstance(pretraining, PretrainingSettings)
            else PretrainingSettings.from_dict(None if pretraining is None else dict(pretraining))
        )
        config: Any = copy.deepcopy(begun.model.config)
        config.pretraining = dataclasses.asdict(settings)
        model = cls(config)
        model.synco.load_state_dict(begun.model.state_dict())
        model.start = {**begun.facts, **model._take_heads(begun)}
        copy_parameters(model.synco, model.target)
        copy_parameters(model.projector, model.target_projector)
        model.image_processor = begun.processor
        return model

    def _take_heads(self, start: Start) -> dict[str, str]:
        """Take heads and queues of the same method and shapes; says which, and why others are drawn anew."""
        own = self.state_dict()
        made = (start.facts["pretraining"] or {}).get("method")
        fitting = {part: _find_misfit(part, own, start.state) for part in ("projector", "predictor", "queue")}
        heads = next((fitting[part] for part in ("projector", "predictor") if fitting[part]), "")
        if start.state and made != self.settings.method:
            heads = f"they are of {made}, this is {self.settings.method}"
        queues = heads or fitting["queue"]
        taken = ("projector.", "predictor.", *(() if queues else ("queue_1.", "queue_2.")))
        if not heads:
            found = {key: value for key, value in start.state.items() if key.startswith(taken)}
            self.load_state_dict(found, strict=False)
        said = {"heads": heads, **({"queues": queues} if self.objective.has_queue else {})}
        return {name: f"{DRAWN_ANEW}: {why}" if why else "the start's" for name, why in said.items()}

    @property
    def starts_with_random_heads(self) -> bool:
        """Whether it goes on from weights that brought no heads."""
        return self.start is not None and self.start["heads"].startswith(DRAWN_ANEW)

    @property
    def starts_with_random_queues(self) -> bool:
        """Whether it goes on from weights that brought no queues."""
        return self.start is not None and self.start.get("queues", "").startswith(DRAWN_ANEW)

    @classmethod
    def from_pretrained(cls, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
        """Load a complete pretraining checkpoint.

        Raises:
            ValueError: If any weight, queue or counter is missing or superfluous, naming the first ones.
        """
        model, info = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        check_complete_state(info["missing_keys"], info["unexpected_keys"])
        return (model, info) if output_loading_info else model

    def forward(
        self,
        view_1: Tensor,
        view_2: Tensor,
        synthetic_active: bool = False,
        local_views: Tensor | None = None,
        **kwargs: Any,
    ) -> PretrainingOutput:
        """Compute the loss of a batch of view pairs and, in training, put its keys in the queues.

        Args:
            view_1: First views (made by T_q). Shape: (batch, channels, height, width).
            view_2: Second views (made by T_k). Shape: (batch, channels, height, width).
            synthetic_active: Whether the run is inside the synthesis window; ignored by MoBY and BYOL.
            local_views: Small views of the same images, which the online branch alone sees: each is compared with both
                keys, and the loss is twice the mean over all pairs of a query and a key, as it is without them. Shape:
                (batch, number, channels, height, width).
            **kwargs: Ignored.

        Source: the small views are those of SwAV (Caron et al. 2020) and DINO (Caron et al. 2021); the paper (10.4)
            names them as what it leaves out.
        """
        features, query_1, query_2 = self._online(view_1, view_2)
        local_query = None if local_views is None else self._online_local(local_views)
        key_1, key_2 = self._target(view_1, view_2)
        # The contrastive part is computed in float32 whatever the backbone runs in (|logits| reach 1 / τ = 5).
        with torch.autocast(device_type=view_1.device.type, enabled=False):
            query_1, query_2, key_1, key_2 = (normalize(v) for v in (query_1, query_2, key_1, key_2))
            loss, accuracy = self._objective(query_1, query_2, key_1, key_2, synthetic_active)
            if local_query is not None:
                number, query = len(local_query) // len(key_1), normalize(local_query)
                active = synthetic_active and self.settings.synthetic_for_local_crops
                key_1_again, key_2_again = key_1.repeat(number, 1), key_2.repeat(number, 1)
                local_loss, _ = self._objective(query, query, key_1_again, key_2_again, active)
                loss = (loss + number * local_loss) / (1 + number)
            feature_std = _normalised_std(features.detach())
        if self.training and self.objective.has_queue:
            self.queue_1.enqueue(key_1)
            self.queue_2.enqueue(key_2)
        return PretrainingOutput(loss=loss, contrast_accuracy=accuracy, feature_std=feature_std)

    def _online(self, view_1: Tensor, view_2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features (2 * batch, hidden) and both predictions (batch, projection_dim).

        Both views go through the backbone at once; the heads see them one by one, for BatchNorm's statistics are of
        a view.
        """
        features = self.synco(torch.cat([view_1, view_2])).pooler_output
        projections = [self.projector(view) for view in features.chunk(2)]
        query_1, query_2 = (self.predictor(projection) for projection in projections)
        return features, query_1, query_2

    def _online_local(self, local_views: Tensor) -> Tensor:
        """Predictions of the small views, one view of all images after the other. (number * batch, projection_dim)."""
        number = local_views.shape[1]
        views = local_views.transpose(0, 1).flatten(0, 1)
        features = self.synco(views, interpolate_pos_encoding=True).pooler_output
        return torch.cat([self.predictor(self.projector(view)) for view in features.chunk(number)])

    @torch.no_grad()
    def _target(self, view_1: Tensor, view_2: Tensor) -> tuple[Tensor, Tensor]:
        """Both keys, (batch, projection_dim) each."""
        features = self.target(torch.cat([view_1, view_2])).pooler_output
        key_1, key_2 = (self.target_projector(view) for view in features.chunk(2))
        return key_1, key_2

    def _objective(
        self, query_1: Tensor, query_2: Tensor, key_1: Tensor, key_2: Tensor, synthetic_active: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Sum of both directions: each query against the other view's key, with that view's queue.

        A small view is the query of both.
        """
        if not self.objective.has_queue:
            return agreement_loss(query_1, key_2) + agreement_loss(query_2, key_1), None
        directions = ((query_1, key_2, self.queue_2.keys), (query_2, key_1, self.queue_1.keys))
        if synthetic_active and self.objective.synthesises:
            return self.synthetic_negatives.contrast_both(*directions)
        outputs = [info_nce(*direction, temperature=self.settings.temperature) for direction in directions]
        return outputs[0].loss + outputs[1].loss, (outputs[0].accuracy + outputs[1].accuracy) / 2

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile both backbones in place, each for itself, and the objective apart from them.

        So no network is compiled anew when synthetic negatives begin and end, and weights keep their names.

        Args:
            *args: As of `torch.compile`.
            **kwargs: As of `torch.compile`.
        """
        for network in (self.synco, self.target):
            network.compile(*args, **kwargs)  # type: ignore[no-untyped-call]
        self._objective = torch.compile(self._objective, *args, **kwargs)  # type: ignore[method-assign]

    def rehearse_objective(self, batch_size: int, synthetic_active: Iterable[bool], local_crops: int = 0) -> None:
        """Compute the objective and its gradient for drawn vectors, that it be compiled; random states stay.

        Args:
            batch_size: Views of each kind on this process.
            synthetic_active: In which states of the synthesis.
            local_crops: Small views of an image.
        """
        device = self.device
        calls = [(batch_size, active) for active in synthetic_active]
        if local_crops:
            calls += [
                (local_crops * batch_size, active)
                for active in sorted({active and self.settings.synthetic_for_local_crops for _, active in calls})
            ]
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            for number, active in calls:
                vectors = torch.randn(4, number, self.settings.projection_dim, device=device)
                with torch.autocast(device.type, enabled=False):
                    leaf = vectors[:2].clone().requires_grad_()
                    query_1, query_2, key_1, key_2 = (normalize(vector) for vector in (*leaf, *vectors[2:]))
                    loss, _ = self._objective(query_1, query_2, key_1, key_2, active)
                torch.autograd.grad(loss, leaf)

    def update_target_network(self, momentum: float) -> None:
        """Move the target backbone and projector towards the online ones, after an optimizer step.

        Args:
            momentum: m of the schedule, see `trainers.schedules.target_momentum`.
        """
        target = [*self.target.parameters(), *self.target_projector.parameters()]
        online = [*self.synco.parameters(), *self.projector.parameters()]
        update_target(target, online, momentum)


def make_projection_head(
    input_dim: int, hidden_dim: int = 4096, output_dim: int = 256, norm: str = "batch"
) -> nn.Sequential:
    """Linear, BatchNorm, ReLU, Linear; the output is normalised where representations are compared.

    Source: paper section 7.2. The predictor reads the un-normalised projection, which is our reading of "both MLPs
    use ℓ2-normalisation on their outputs" and what the authors' code does.
    """
    return nn.Sequential(
        nn.Linear(input_dim, hidden_dim),
        _NORMS[norm](hidden_dim),
        nn.ReLU(inplace=True),
        nn.Linear(hidden_dim, output_dim),
    )


@torch.no_grad()
def update_target(target: Sequence[Tensor], online: Sequence[Tensor], momentum: float) -> None:
    """Move every target parameter towards its online one: target ← m · target + (1 − m) · online.

    One fused call for all parameters. Parameters only: buffers such as BatchNorm statistics are the target's own.

    Source: paper section 7.4; which tensors take part follows MoBY (Xie et al. 2021).
    """
    torch._foreach_lerp_(list(target), list(online), 1.0 - momentum)


def copy_parameters(source: nn.Module, destination: nn.Module) -> None:
    """Start the target as an exact copy of the online network, parameters and buffers."""
    destination.load_state_dict(source.state_dict())


def normalize(vectors: Tensor) -> Tensor:
    """ℓ2-normalise in float32. Shape: (batch, dim)."""
    return F.normalize(vectors.float(), dim=1)


def _normalised_std(features: Tensor) -> Tensor:
    """Standard deviation over the batch of unit-norm features, times √dim. Shape: ()."""
    return normalize(features).std(dim=0).mean() * features.shape[1] ** 0.5


def build_synthetic_negatives(settings: PretrainingSettings) -> SyntheticNegatives:
    """The synthesis that the settings describe."""
    module = SyntheticNegatives(
        num_hard_negatives=settings.num_hard_negatives,
        counts=settings.counts,
        temperature=settings.temperature,
        interpolation_range=(0.0, settings.interpolation_max),
        extrapolation_range=(1.0, settings.extrapolation_max),
        mixup_range=(0.0, settings.mixup_max),
        noise_std=settings.noise_std,
        gradient_step=settings.gradient_step,
        adversarial_step=settings.adversarial_step,
    )
    # They are made here, and a look at them would wait for the device.
    module.knows_lengths = True
    return module


def check_complete_state(missing: Any, unexpected: Any) -> None:
    """Refuse a checkpoint that does not hold exactly the state of the model."""
    if missing or unexpected:
        raise ValueError(
            f"The checkpoint is not a complete pretraining state of this network: {len(missing)} keys are missing "
            f"({sorted(missing)[:3]}) and {len(unexpected)} are superfluous ({sorted(unexpected)[:3]}). Give the "
            "method and backbone it was made with, or start a new run in another directory."
        )


def _find_misfit(part: str, own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """Why the tensors of a part are not those of a start; empty if they fit."""
    due = {key: tuple(value.shape) for key, value in own.items() if key.startswith(part)}
    there = {key: tuple(value.shape) for key, value in found.items() if key.startswith(part)}
    if not there:
        return "the start has none"
    wrong = sorted(key for key in {*due, *there} if due.get(key) != there.get(key))
    return f"{wrong[0]} was {there.get(wrong[0])} and is {due.get(wrong[0])}" if wrong else ""


def check_same_start(checkpoint: str, saved: Mapping[str, Any] | None, start: Mapping[str, Any] | None) -> None:
    """Refuse to continue what began with other weights, for its schedules and views are the start's."""
    if (saved or {}).get("weights") != (start or {}).get("weights"):
        began, now = (
            "random weights" if each is None else f"{each['base_model']} ({each['weights']})"
            for each in (saved, start)
        )
        raise ValueError(
            f"{checkpoint} began with {began} and is now to be continued as if with {now}: leave --start-from out "
            "(in Python: make the network as then), or start a new run in another directory."
        )


def check_same_network(checkpoint: str | Path, model: SynCoForPreTraining) -> None:
    """Refuse a checkpoint of another backbone, method or objective, naming what differs."""
    weights = Path(checkpoint) / SAFE_WEIGHTS_NAME
    if weights.is_file():  # else in shards, whose names are looked at when they are loaded
        with safe_open(weights, framework="pt") as stored:
            found = set(stored.keys())
        wanted = set(model.state_dict())
        check_complete_state(wanted - found, found - wanted)
    theirs, ours = (config.to_dict() for config in (SynCoConfig.from_pretrained(checkpoint), model.config))
    theirs["pretraining"], ours["pretraining"] = (
        dataclasses.asdict(PretrainingSettings.from_dict(config["pretraining"])) for config in (theirs, ours)
    )
    flat = [{**config["pretraining"], **{name: config[name] for name in _BACKBONE}} for config in (theirs, ours)]
    differing = [
        f"{name} was {flat[0][name]!r} and is now {flat[1][name]!r}"
        for name in flat[1]
        if flat[0][name] != flat[1][name]
    ]
    if differing:
        raise ValueError(
            f"{checkpoint} is of another pretraining network ({'; '.join(differing[:5])}): give the settings it was "
            "made with, or start a new run in another directory."
        )


def synchronize_batch_norm(model: SynCoForPreTraining, device_type: str) -> SynCoForPreTraining:
    """Let BatchNorm see the whole batch of a step's micro-batches over all processes, where the device can."""
    if device_type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        logger.warning(
            "BatchNorm of the heads is not synchronised on %s: statistics are of each process's part of the batch.",
            device_type,
        )
    return model
