""""""

import numpy as np
import pytest

from synco_hub.data import load_dataset
from synco_hub.evaluation.image_sample import sampled_images


def test_samples_are_parts_of_larger_ones_and_keep_order_and_labels(tmp_path):
    images = load_dataset("fractals:test_images_per_class=5", "test", cache_dir=tmp_path)
    few, few_at = sampled_images(images, 10, seed=3)
    more, more_at = sampled_images(images, 30, seed=3)
    assert few_at == sorted(few_at)
    assert set(few_at) < set(more_at)
    assert sampled_images(images, 10, seed=4)[1] != few_at
    assert few.labels.tolist() == images.labels[few_at].tolist()
    assert np.array_equal(np.array(few.load_image(4)), np.array(images.load_image(few_at[4])))
    assert few.description.fingerprint != images.description.fingerprint
    assert len(more) == 30
    for whole in (None, 50):
        assert sampled_images(images, whole, seed=0) == (images, None)
    for wrong in (0, 51):
        with pytest.raises(ValueError, match=f"{wrong} images of fractals: its test split has 50"):
            sampled_images(images, wrong, seed=0)
