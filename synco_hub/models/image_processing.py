"""The image processor of every checkpoint: resize, centre crop, ImageNet normalisation."""

from transformers import ViTImageProcessor
from transformers.image_utils import PILImageResampling
from transformers.utils.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD


def image_processor(image_size: int = 224) -> ViTImageProcessor:
    """Build the evaluation preprocessing for one image size.

    The shorter side is resized (bicubic) to 256 / 224 of the image size, then the centre is cropped.

    Args:
        image_size: Side of the crop in pixels.

    Returns:
        A `ViTImageProcessor` whose output has shape (batch, 3, image_size, image_size).

    Source: paper section 8.2 (centre crops); the sizes are those of the k-NN protocol of DINO.
    """
    return ViTImageProcessor(
        do_resize=True,
        size={"shortest_edge": round(image_size * 256 / 224)},
        resample=PILImageResampling.BICUBIC,
        do_center_crop=True,
        crop_size={"height": image_size, "width": image_size},
        do_rescale=True,
        do_normalize=True,
        do_convert_rgb=True,
        image_mean=IMAGENET_DEFAULT_MEAN,
        image_std=IMAGENET_DEFAULT_STD,
    )
