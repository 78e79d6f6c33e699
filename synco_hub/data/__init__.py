"""Images in, training views and evaluation batches out.

`load_dataset` opens fractals, folders and Hub data sets as an `ImageDataset`. `TwoViewDataset` makes pretraining
pairs of one, `EvaluationDataset` the undistorted views for frozen features, and `UnreadableImages` keeps count of what
could not be read.
"""

from synco_hub.data.decoding import UnreadableImageError, decode_rgb
from synco_hub.data.duplicates import DuplicateGroup, Duplicates, find_duplicates
from synco_hub.data.evaluation_dataset import EvaluationDataset
from synco_hub.data.evaluation_transform import EvaluationTransform
from synco_hub.data.fractals.dataset import FractalDataset, FractalParameters
from synco_hub.data.image_dataset import UNLABELED, DatasetDescription, ImageDataset, Sample
from synco_hub.data.image_folder import ImageFolderDataset, load_image_folder
from synco_hub.data.loading import load_dataset
from synco_hub.data.samplers import EpochSampler
from synco_hub.data.streams.images import StreamCollator, StreamedBatches, StreamedImages
from synco_hub.data.streams.order import BY_ROWS, BY_SHARDS
from synco_hub.data.streams.retries import StreamReadError
from synco_hub.data.streams.sampler import DEFAULT_SHUFFLE_BUFFER, StreamSampler, StreamSettings
from synco_hub.data.streams.source import StreamSource, open_stream
from synco_hub.data.unreadable_images import TooManyBadImagesError, UnreadableImages
from synco_hub.data.views.dataset import TwoViewCollator, TwoViewDataset
from synco_hub.data.views.parameters import TwoViewParameters
from synco_hub.data.views.worker_views import TwoViewTransform
from synco_hub.settings import DEFAULT_MAX_BAD_FRACTION, DatasetChoice

__all__ = [
    "BY_ROWS",
    "BY_SHARDS",
    "DEFAULT_MAX_BAD_FRACTION",
    "DEFAULT_SHUFFLE_BUFFER",
    "UNLABELED",
    "DatasetChoice",
    "DatasetDescription",
    "DuplicateGroup",
    "Duplicates",
    "EpochSampler",
    "EvaluationDataset",
    "EvaluationTransform",
    "FractalDataset",
    "FractalParameters",
    "ImageDataset",
    "ImageFolderDataset",
    "Sample",
    "StreamCollator",
    "StreamReadError",
    "StreamSampler",
    "StreamSettings",
    "StreamSource",
    "StreamedBatches",
    "StreamedImages",
    "TooManyBadImagesError",
    "TwoViewCollator",
    "TwoViewDataset",
    "TwoViewParameters",
    "TwoViewTransform",
    "UnreadableImageError",
    "UnreadableImages",
    "decode_rgb",
    "find_duplicates",
    "load_dataset",
    "load_image_folder",
    "open_stream",
]
