"""Pictures that no model and no hash takes for each other: noise with the spectrum of photographs."""

import numpy as np
from PIL import Image


def photograph(seed, height=120, width=160):
    """A picture with the spectrum of photographs; uint8, (height, width, 3)."""
    generator = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1
    planes = [
        np.fft.irfft2(np.fft.rfft2(generator.standard_normal((height, width))) / frequency, s=(height, width))
        for _ in range(3)
    ]
    planes = np.stack(planes, axis=-1) / np.std(planes)
    return np.clip(128 + 55 * (0.7 * planes[..., :1] + 0.3 * planes), 0, 255).astype(np.uint8)


def save(folder, name, pixels, **options):
    place = folder / name
    place.parent.mkdir(parents=True, exist_ok=True)
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    picture.save(place, **options)
