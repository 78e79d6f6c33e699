"""Which images to pretrain on, and which backbone: the flags that no other dataclass holds."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from synco_hub.data import ImageDataset, load_dataset, open_stream
from synco_hub.data.streams.retries import DEFAULT_RETRIES
from synco_hub.data.streams.sampler import DEFAULT_SHUFFLE_BUFFER, StreamSettings
from synco_hub.models import SynCoConfig
from synco_hub.settings import DatasetChoice
from trainers.runs.stream_loading import StreamedData


@dataclass(frozen=True)
class DataArguments(DatasetChoice):
    """Where the images come from."""

    _argument_group_name: ClassVar[str] = "data"

    streaming: bool = field(
        default=False,
        metadata={"help": "Read parquet, webdataset or Hub data while training instead of downloading it first."},
    )
    shuffle_buffer: int = field(
        default=DEFAULT_SHUFFLE_BUFFER,
        metadata={"help": "Encoded images in memory, of which --streaming draws the next; about 0.1 MB each."},
    )
    images_per_epoch: int | None = field(
        default=None, metadata={"help": "Images of an epoch with --streaming, where the data does not say how many."}
    )
    stream_retries: int = field(
        default=DEFAULT_RETRIES,
        metadata={"help": "Attempts after a network error, 1, 2, 4, … seconds apart; then the run saves and stops."},
    )
    knn_dataset: str | None = field(
        default=None,
        metadata={"help": "What --knn-every-epochs measures on, as --dataset; default: that itself."},
    )
    knn_data_dir: str | None = field(default=None, metadata={"help": "Folder of the files of --knn-dataset."})
    knn_images: int | None = field(
        default=None,
        metadata={"help": "Images of each split that k-NN takes at most; default: all, with --streaming 10000."},
    )

    def __post_init__(self) -> None:
        """Refuses flags that would be ignored."""
        if self.images_per_epoch is not None and not self.streaming:
            raise ValueError("--images-per-epoch is for --streaming: add that, or leave it out.")
        if self.knn_data_dir is not None and self.knn_dataset is None:
            raise ValueError(f"--knn-data-dir {self.knn_data_dir}: say by --knn-dataset which set its files are of.")
        if self.knn_images is not None and self.knn_images < 1:
            raise ValueError(f"--knn-images {self.knn_images}: give at least 1, or leave it out.")

    def images(self, split: str, image_size: int | None, max_images: int | None = None) -> ImageDataset:
        """One split of the data set, by position.

        Args:
            split: `train` or `test`.
            image_size: Size in pixels at which fractals are drawn.
            max_images: See `load_dataset`.

        Raises:
            ValueError: As `load_dataset`.
        """
        return load_dataset(self, split, image_size=image_size, max_images=max_images)

    def stream(self, seed: int) -> StreamedData:
        """The training split as a stream; its labels are not read.

        Args:
            seed: Draws the order.

        Raises:
            ValueError: As `open_stream`.
        """
        settings = StreamSettings(seed, self.shuffle_buffer, self.stream_retries)
        return StreamedData(open_stream(self), settings)


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
