"""Which images to pretrain on, and which backbone: the flags that no other dataclass holds."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from synco_hub.models import SynCoConfig


@dataclass
class DataArguments:
    """Where the images come from."""

    _argument_group_name: ClassVar[str] = "data"

    dataset: str = field(
        default="fractals",
        metadata={"help": "fractals (made here), a folder of images, or a data set id on the Hub."},
    )
    data_dir: str | None = field(default=None, metadata={"help": "Folder of the data set's original files."})
    image_column: str | None = field(default=None, metadata={"help": "Column of the images, where it is not obvious."})
    label_column: str | None = field(default=None, metadata={"help": "Column of the labels, where it is not obvious."})
    split_seed: int = field(
        default=0, metadata={"help": "Seed of the 80/20 split of a folder without test images; the same in evaluate."}
    )


@dataclass
class BackboneArguments:
    """Which backbone, see `synco_hub.SynCoConfig`; what is left out is the backbone's own (Table 10)."""

    _argument_group_name: ClassVar[str] = "backbone (section 7.2)"

    backbone: str = field(default="deit-s", metadata={"help": "deit-s, swin-t, vit-b, … or a timm ViT or Swin name."})
    image_size: int | None = field(default=None, metadata={"help": "Side of the views in pixels."})
    patch_size: int | None = field(default=None, metadata={"help": "Side of a patch in pixels."})
    embed_dim: int | None = field(default=None, metadata={"help": "Width of the tokens (Swin: of the first stage)."})
    depth: list[int] | None = field(default=None, metadata={"help": "Blocks; for Swin one number a stage."})
    num_heads: list[int] | None = field(default=None, metadata={"help": "Heads; for Swin one number a stage."})
    mlp_ratio: float | None = field(default=None, metadata={"help": "Hidden width of the MLPs over their width."})
    window_size: int | None = field(default=None, metadata={"help": "Side of a Swin window in patches."})
    position_embedding: str | None = field(default=None, metadata={"help": "sincos (fixed, as the paper) or learned."})
    layer_norm_eps: float | None = field(default=None, metadata={"help": "Epsilon of every LayerNorm."})

    def config(self, pretraining: dict[str, Any]) -> SynCoConfig:
        """The configuration that these flags describe.

        Args:
            pretraining: `PretrainingSettings` as plain data.

        Raises:
            ValueError: As `SynCoConfig`.
        """
        values = {name: value for name, value in asdict(self).items() if value is not None}
        for name in ("depth", "num_heads"):
            if len(values.get(name, ())) == 1:
                values[name] = values[name][0]
        return SynCoConfig(pretraining=pretraining, **values)
