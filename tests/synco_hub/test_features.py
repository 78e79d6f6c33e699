"""Features row by row, against one forward pass by hand and by several processes; the model stays as it was."""

from __future__ import annotations

import concurrent.futures
import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import Dataset

from synco_hub import features
from synco_hub.features import (
    DatasetPart,
    Features,
    check_finite,
    choose_device,
    eval_mode,
    extract_features,
    extract_features_in_processes,
    list_devices,
    parts,
)
from synco_hub.models import SynCoConfig, SynCoModel
from synco_hub.settings import ExtractionSettings

QUIET = ExtractionSettings(num_workers=0, batch_size=4, max_bad_fraction=1.0, progress=False)


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
    features = extract_features(vit(), Images(7), replace(QUIET, **settings))
    torch.testing.assert_close(features.values, expected.values)


def test_half_precision_is_close_and_kept_as_float32() -> None:
    expected = extract_features(vit(), Images(7), QUIET)
    features = extract_features(vit(), Images(7), ExtractionSettings(num_workers=0, precision="bf16", progress=False))
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
        extract_features(vit(), dataset, ExtractionSettings(num_workers=0, progress=False))
    allowed = extract_features(vit(), dataset, replace(QUIET, max_bad_fraction=0.02), title="bank")
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


def test_training_flags_come_back_module_by_module() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.5)).train()
    network[1].eval()
    before = [module.training for module in network.modules()]
    with eval_mode(network) as same:
        assert same is network
        assert not any(module.training for module in network.modules())
    assert [module.training for module in network.modules()] == before == [True, True, False, True]


def test_an_error_inside_changes_nothing() -> None:
    network = nn.Linear(2, 2).train()
    with pytest.raises(RuntimeError, match="inside"), eval_mode(network, "cpu"):
        raise RuntimeError("inside")
    assert network.training


def test_the_device_is_used_and_left() -> None:
    network = nn.Linear(2, 2)
    weight = network.weight
    values = weight.detach().clone()
    with eval_mode(network, torch.device("cpu")) as moved:
        assert next(moved.parameters()).device.type == "cpu"
    assert network.weight is weight
    assert torch.equal(network.weight, values)


class Travelling(nn.Linear):
    """Notes where it is sent instead of going there: no such device need be there."""

    def __init__(self) -> None:
        super().__init__(2, 2)
        self.sent: list[str] = []

    def to(self, device: Any) -> Travelling:
        self.sent.append(str(device))
        return self


@pytest.mark.parametrize("fails", [False, True])
def test_the_device_is_put_back_also_after_an_error(fails: bool) -> None:
    network = Travelling()
    with contextlib.suppress(KeyError), eval_mode(network, "cuda:1"):
        assert network.sent == ["cuda:1"]
        if fails:
            raise KeyError
    assert network.sent == ["cuda:1", "cpu"]
    assert network.training


@pytest.mark.gpu
def test_the_network_goes_to_the_gpu_and_back() -> None:
    network = nn.Linear(2, 2)
    with eval_mode(network, "cuda") as moved:
        assert next(moved.parameters()).device.type == "cuda"
    assert network.weight.device.type == "cpu"


@dataclass
class Noise:
    """Images drawn from their index; some cannot be read."""

    count: int
    bad: tuple[int, ...] = ()

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if not 0 <= index < self.count:
            raise IndexError(index)
        pixels = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(index))
        return {"pixel_values": pixels, "label": index % 5, "bad_index": index if index in self.bad else -1}

    def name(self, index):
        return f"noise {range(self.count)[index]}"


@pytest.mark.parametrize(("count", "processes"), [(10, 3), (2, 8), (7, 7), (1000, 16)])
def test_parts_cover_everything_once_and_evenly(count, processes):
    shares = parts(count, processes)
    assert [index for start, stop in shares for index in range(start, stop)] == list(range(count))
    sizes = [stop - start for start, stop in shares]
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 1


def test_two_processes_give_the_features_of_one():
    torch.manual_seed(0)
    model = SynCoModel(SynCoConfig(backbone="vit-nano")).eval()
    dataset, settings = (
        Noise(23, bad=(3, 20)),
        replace(QUIET, max_bad_fraction=0.1),
    )
    one = extract_features(model, dataset, settings)
    two = extract_features_in_processes(model, dataset, replace(settings, num_processes=2))
    torch.testing.assert_close(two.values, one.values, rtol=1e-5, atol=1e-6)
    assert torch.equal(two.labels, one.labels)
    assert torch.equal(two.indices, one.indices)
    assert two.skipped.tolist() == [3, 20]
    assert two.facts == one.facts


def test_the_share_of_unreadable_images_is_that_of_the_whole(monkeypatch):
    # Threads stand for processes here, which take seconds to start.
    monkeypatch.setattr(features, "start_fresh_processes", concurrent.futures.ThreadPoolExecutor)
    model = SynCoModel(SynCoConfig(backbone="vit-nano")).eval()
    dataset = Noise(20, bad=(0, 1, 2))  # 30 % of the first half, 15 % of all
    kind = ExtractionSettings(num_workers=0, batch_size=4, max_bad_fraction=0.2, progress=False, num_processes=2)
    assert len(extract_features_in_processes(model, dataset, kind).values) == 17
    strict = replace(kind, max_bad_fraction=0.1)
    with pytest.raises(ValueError, match=r"3 of 20 images cannot be read: noise 0, noise 1, noise 2"):
        extract_features_in_processes(model, dataset, strict)


def test_bad_numbers_of_processes_are_refused():
    with pytest.raises(ValueError, match="num_processes=0: give at least 1"):
        ExtractionSettings(num_processes=0)
    with pytest.raises(ValueError, match=f"--num-processes {torch.cuda.device_count() + 1} with"):
        list_devices("cuda", torch.cuda.device_count() + 1)
    assert list_devices(None, 2) == ["cpu", "cpu"]
    assert list_devices("cuda:3", 2) == ["cuda:3", "cuda:3"]


def test_a_part_names_and_reads_the_images_of_the_whole():
    part = DatasetPart(Noise(10), 4, 7)
    assert len(part) == 3
    assert [part.name(index) for index in range(3)] == ["noise 4", "noise 5", "noise 6"]
    assert torch.equal(part[1]["pixel_values"], Noise(10)[5]["pixel_values"])
    assert [DatasetPart(Noise(10, bad=(5,)), 4, 7)[index]["bad_index"] for index in range(3)] == [-1, 1, -1]


@pytest.mark.parametrize(("there", "best"), [(True, "cuda"), (False, "cpu")])
def test_the_best_device_is_an_accelerator_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, there: bool, best: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert choose_device() == best


def test_bfloat16_is_refused_on_a_card_that_has_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla P100")
    for precision, device in (("fp32", "cuda"), ("fp16", "cuda:1"), ("bf16", "cpu")):
        features.check_precision(precision, device)
    with pytest.raises(ValueError, match="--precision bf16: Tesla P100 has no bfloat16; give fp16, or leave it out"):
        features.check_precision("bf16", "cuda:1")
