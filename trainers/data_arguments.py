"""Which recipe, images and backbone to pretrain with: the flags that no other dataclass holds; no torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from synco_hub.settings import DatasetChoice, setting
from trainers.settings import toggle

PAPER = "paper"
AUTHORS_CODE = "authors-code"


@dataclass(frozen=True)
class RecipeArguments:
    """Groups of flags, which those given beside them override."""

    recipe: str | None = setting(
        None, "Name of a recipe or a YAML file of flags, such as synco-v2-deit-s; flags given here override it."
    )
    fidelity: str = setting(
        PAPER, f"{PAPER}, or {AUTHORS_CODE}: the settings of the authors' published code where it differs."
    )


@dataclass(frozen=True)
class DataArguments(DatasetChoice):
    """Where the images come from."""

    _argument_group_name: ClassVar[str] = "data"

    streaming: bool = toggle(
        False, "Read parquet, webdataset or Hub data while training instead of downloading it first."
    )
    shuffle_buffer: int = setting(
        4096, "Encoded images in memory, of which --streaming draws the next; about 0.1 MB each."
    )
    images_per_epoch: int | None = setting(
        None, "Images of an epoch with --streaming, where the data does not say how many."
    )
    stream_retries: int = setting(
        5, "Attempts after a network error, 1, 2, 4, … seconds apart; then the run saves and stops."
    )
    knn_dataset: str | None = setting(None, "What --knn-every-epochs measures on, as --dataset; default: that itself.")
    knn_data_dir: str | None = setting(None, "Folder of the files of --knn-dataset.")
    knn_images: int | None = setting(
        None, "Images of each split that k-NN takes at most; default: all, with --streaming 10000."
    )

    def __post_init__(self) -> None:
        """Refuses flags that would be ignored."""
        if self.images_per_epoch is not None and not self.streaming:
            raise ValueError("--images-per-epoch is for --streaming: add that, or leave it out.")
        if self.knn_data_dir is not None and self.knn_dataset is None:
            raise ValueError(f"--knn-data-dir {self.knn_data_dir}: say by --knn-dataset which set its files are of.")
        if self.knn_images is not None and self.knn_images < 1:
            raise ValueError(f"--knn-images {self.knn_images}: give at least 1, or leave it out.")


@dataclass(frozen=True)
class BackboneArguments:
    """Which backbone, see `synco_hub.SynCoConfig`; what is left out is the backbone's own (Table 10)."""

    _argument_group_name: ClassVar[str] = "backbone (section 7.2)"

    backbone: str = setting("deit-s", "deit-s, swin-t, vit-b, … or a timm ViT or Swin name.")
    image_size: int | None = setting(None, "Side of the views in pixels.")
    patch_size: int | None = setting(None, "Side of a patch in pixels.")
    embed_dim: int | None = setting(None, "Width of the tokens (Swin: of the first stage).")
    depth: list[int] | None = field(default=None, metadata={"help": "Blocks; for Swin one number a stage."})
    num_heads: list[int] | None = field(default=None, metadata={"help": "Heads; for Swin one number a stage."})
    mlp_ratio: float | None = setting(None, "Hidden width of the MLPs over their width.")
    window_size: int | None = setting(None, "Side of a Swin window in patches.")
    position_embedding: str | None = setting(None, "sincos (fixed, as the paper) or learned.")
    layer_norm_eps: float | None = setting(None, "Epsilon of every LayerNorm.")
