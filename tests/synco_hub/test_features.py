"""Features row by row, against one forward pass by hand; the model stays as it was."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import Dataset

from synco_hub.features import ExtractionSettings, Features, check_finite, extract_features

QUIET = ExtractionSettings(batch_size=4, max_bad_fraction=1.0, progress=False)


class Images(Dataset[dict[str, Any]]):
    """Random images; those in `bad` stand in for files that cannot be read."""

    def __init__(self, count: int, bad: tuple[int, ...] = (), seed: int = 0) -> None:
        self.images = torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
        self.bad = bad

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        bad_index = index if index in self.bad else -1
        return {"pixel_values": self.images[index], "label": index % 3, "index": index, "bad_index": bad_index}

    def name(self, index: int) -> str:
        return f"image_{index}.jpg"


def vit(**change: Any) -> nn.Module:
    torch.manual_seed(0)
    config = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 48}
    return transformers.ViTModel(transformers.ViTConfig(**config, image_size=32, patch_size=8, **change))


def test_rows_are_the_class_tokens_of_the_images_in_order() -> None:
    model, dataset = vit(), Images(11)
    features = extract_features(model, dataset, QUIET)
    with torch.no_grad():
        expected = model.eval()(dataset.images).last_hidden_state[:, 0]
    torch.testing.assert_close(features.values, expected)
    assert features.values.dtype == torch.float32
    assert features.labels.tolist() == [index % 3 for index in range(11)]
    assert features.indices.tolist() == list(range(11))
    assert len(features.skipped) == 0
    assert "[CLS]" in features.facts["feature"]


def test_the_model_is_frozen_meanwhile_and_comes_back_as_it_was() -> None:
    model = vit(hidden_dropout_prob=0.5).train()
    model.layernorm.eval()
    flags = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    first, second = (extract_features(model, Images(5), QUIET).values for _ in range(2))
    assert torch.equal(first, second)
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_unreadable_images_get_no_row_and_are_counted() -> None:
    dataset = Images(10, bad=(0, 7))
    features = extract_features(vit(), dataset, QUIET)
    assert features.skipped.tolist() == [0, 7]
    assert features.indices.tolist() == [1, 2, 3, 4, 5, 6, 8, 9]
    whole = extract_features(vit(), Images(10), QUIET)
    torch.testing.assert_close(features.values, whole.values[features.indices])
    assert torch.equal(features.labels, whole.labels[features.indices])


def test_a_whole_batch_may_be_unreadable_but_not_all() -> None:
    assert extract_features(vit(), Images(6, bad=(0, 1, 2, 3)), QUIET).indices.tolist() == [4, 5]
    with pytest.raises(ValueError, match="none of the 3 images could be read"):
        extract_features(vit(), Images(3, bad=(0, 1, 2)), QUIET)
    with pytest.raises(ValueError, match="data set is empty"):
        extract_features(vit(), Images(0), QUIET)


@pytest.mark.parametrize("settings", [{"num_workers": 1}, {"batch_size": 3}, {"device": "cpu"}])
def test_settings_change_no_feature(settings: dict[str, Any]) -> None:
    expected = extract_features(vit(), Images(7), QUIET)
    features = extract_features(vit(), Images(7), ExtractionSettings(progress=False, **settings))
    torch.testing.assert_close(features.values, expected.values)


def test_half_precision_is_close_and_kept_as_float32() -> None:
    expected = extract_features(vit(), Images(7), QUIET)
    features = extract_features(vit(), Images(7), ExtractionSettings(dtype=torch.bfloat16, progress=False))
    assert features.values.dtype == torch.float32
    assert 0 < (features.values - expected.values).abs().max() < 0.1


def test_a_timm_swin_serves_too() -> None:
    model = timm.create_model(
        "swin_tiny_patch4_window7_224", pretrained=False, img_size=56, embed_dim=8, depths=(1, 1), num_heads=(1, 2)
    )
    dataset = Images(3)
    dataset.images = torch.randn(3, 3, 56, 56)
    assert extract_features(model, dataset, QUIET).values.shape == (3, 16)


def test_broken_weights_are_found_in_the_first_batch() -> None:
    model = vit()
    with torch.no_grad():
        next(iter(model.parameters())).fill_(torch.nan)
    with pytest.raises(ValueError, match="features of 4 of 4 images are NaN or infinite, first at index 0"):
        extract_features(model, Images(9), QUIET)


def test_a_broken_image_later_on_is_counted_with_its_index() -> None:
    dataset = Images(12, bad=(1,))
    dataset.images[[6, 9]] = torch.inf
    with pytest.raises(ValueError, match="features of 2 of 11 images are NaN or infinite, first at index 6"):
        extract_features(vit(), dataset, QUIET)


def test_check_finite_agrees_with_isfinite() -> None:
    values = torch.randn(200_000, 3)
    check_finite(values)
    check_finite(torch.full((2, 4000), torch.finfo(torch.float32).max))
    values[150_000, 2], values[199_999, 0] = -torch.inf, torch.nan
    with pytest.raises(ValueError, match=r"2 of 200000 .* first at index 150000"):
        check_finite(values)


def some_features() -> Features:
    index = torch.arange(4)
    return Features(torch.randn(4, 3), torch.tensor([0, 1, 1, 0]), index, torch.tensor([4]), {"model": "ä", "k": "v"})


def test_saved_features_come_back_bit_for_bit(tmp_path: Path) -> None:
    features = some_features()
    loaded = Features.load(features.save(tmp_path / "bank.safetensors"))
    for name in ("values", "labels", "indices", "skipped"):
        assert torch.equal(getattr(loaded, name), getattr(features, name))
    assert loaded.facts == features.facts


def test_files_without_features_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bank.safetensors"
    some_features().save(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match="not a whole file of features"):
        Features.load(path)
    save_file({"weight": torch.ones(2)}, path)
    with pytest.raises(ValueError, match="has the format None"):
        Features.load(path)
    with pytest.raises(FileNotFoundError):
        Features.load(tmp_path / "absent.safetensors")


def test_rows_that_do_not_fit_are_refused() -> None:
    index = torch.arange(3)
    with pytest.raises(ValueError, match="do not fit"):
        Features(torch.ones(2, 3), index, index, index)


def test_too_many_unreadable_images_end_the_run_with_their_names(caplog: pytest.LogCaptureFixture) -> None:
    dataset = Images(100, bad=(3, 70))
    with pytest.raises(
        ValueError, match=r"2 of 100 images cannot be read: image_3.jpg, image_70.jpg; at most .* 0.01"
    ):
        extract_features(vit(), dataset, ExtractionSettings(progress=False))
    allowed = extract_features(vit(), dataset, ExtractionSettings(max_bad_fraction=0.02, progress=False), title="bank")
    assert allowed.skipped.tolist() == [3, 70]
    assert "bank: 2 of 100 images cannot be read" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"num_workers": -1}, "workers=-1"),
    ],
)
def test_settings_are_checked(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExtractionSettings(**change)


def test_values_do_not_remember_how_they_were_made() -> None:
    values: Tensor = extract_features(vit(), Images(2), QUIET).values
    assert not values.is_inference()
    assert not values.requires_grad
    values += 1
