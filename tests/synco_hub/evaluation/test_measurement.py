"""A split says what it is, and its features are those of the images that could be read."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from synco_hub.data import EvaluationDataset, EvaluationTransform, FractalDataset, FractalParameters, load_image_folder
from synco_hub.evaluation import measure_split, model_source
from synco_hub.evaluation.measurement import (
    EvaluatedModel,
    MeasuredSplit,
    check_same_model,
    data_source,
    describe_classifier,
    load_split,
    open_split,
    save_each,
    save_split,
)
from synco_hub.features import Features
from synco_hub.models import SynCoConfig, SynCoForImageClassification, image_processor
from synco_hub.results import DataSource, EvaluationResult, ModelSource, ProtocolFacts
from synco_hub.settings import DatasetChoice, ExtractionSettings
from synco_hub.weights_identity import hash_weights

QUIET = ExtractionSettings(num_workers=0, batch_size=4, max_bad_fraction=0.5, progress=False)


def synco() -> SynCoForImageClassification:
    torch.manual_seed(0)
    config = SynCoConfig(backbone="deit-s", image_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3)
    return SynCoForImageClassification(config)


def folder_of_photographs(root: Path) -> Path:
    generator = np.random.default_rng(0)
    for name in ("cat/a.png", "cat/b.png", "cat/c.png", "dog/a.png", "dog/b.png", "dog/c.png"):
        for split in ("train", "test"):
            path = root / split / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path)
    return root


def test_a_split_of_fractals_tells_its_origin(tmp_path: Path) -> None:
    images = FractalDataset("test", FractalParameters(3, 1, 4, 32), tmp_path)
    split = measure_split(synco(), EvaluationDataset(images, EvaluationTransform(32)), QUIET)
    assert split.features.values.shape == (12, 24)
    assert torch.equal(split.features.labels, torch.arange(3).repeat_interleave(4))
    assert (split.source.name, split.source.split, split.source.count) == ("fractals", "test", 12)
    assert split.source.fingerprint == images.description.fingerprint
    assert split.source.num_classes == len(split.class_names) == 3
    assert split.preprocessing["image_size"] == 32
    assert split.preprocessing["interpolation"] == "bicubic"
    assert split.skipped_files == ()


def test_a_broken_file_is_named_and_left_out(tmp_path: Path) -> None:
    root = folder_of_photographs(tmp_path)
    whole = measure_split(synco(), EvaluationDataset(load_image_folder(root, "test"), EvaluationTransform(32)), QUIET)
    (root / "test" / "dog" / "a.png").write_bytes(b"\x89PNG, but nothing more")
    images = load_image_folder(root, "test")
    split = measure_split(synco(), EvaluationDataset(images, EvaluationTransform(32)), QUIET)
    assert split.source.count == 5
    assert len(split.skipped_files) == 1
    assert "a.png" in split.skipped_files[0]
    kept = split.features.indices
    torch.testing.assert_close(split.features.values, whole.features.values[kept])
    assert torch.equal(split.features.labels, whole.features.labels[kept])


def test_too_many_broken_files_end_the_run(tmp_path: Path) -> None:
    root = folder_of_photographs(tmp_path)
    (root / "test" / "dog" / "a.png").write_bytes(b"")
    dataset = EvaluationDataset(load_image_folder(root, "test"), EvaluationTransform(32))
    with pytest.raises(ValueError, match="1 of 6 images cannot be read"):
        measure_split(synco(), dataset, dataclasses.replace(QUIET, max_bad_fraction=0.01))


def test_a_model_is_named_by_the_user_the_loader_or_its_class(tmp_path: Path) -> None:
    model = synco()
    assert model_source(model, "my-model").name == "my-model"
    assert model_source(model).name == "SynCoModel"
    config = transformers.ViTConfig(
        hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, image_size=32, patch_size=8
    )
    transformers.ViTModel(config).save_pretrained(tmp_path / "vit")
    source = model_source(transformers.AutoModel.from_pretrained(tmp_path / "vit"))
    assert source.name == str(tmp_path / "vit")
    assert source.feature == "[CLS] token after the final norm"


def test_parameters_are_those_of_the_backbone() -> None:
    model = synco()
    backbone = sum(parameter.numel() for parameter in model.synco.parameters())
    assert model_source(model).num_parameters == backbone < sum(p.numel() for p in model.parameters())


def test_a_classifier_counts_with_its_head_and_a_split_says_how_it_was_made(tmp_path: Path) -> None:
    model = synco()
    source = describe_classifier(EvaluatedModel(model, None, "probe"), "abc")
    assert (source.name, source.feature, source.weights) == ("probe", "classifier", "abc")
    assert describe_classifier(EvaluatedModel(model, None, "probe")).weights == hash_weights(model)
    assert source.revision == "none: a network in memory"
    assert source.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    about = FractalDataset("test", FractalParameters(3, 1, 4, 32), tmp_path).description
    said = data_source(about, 7)
    assert (said.name, said.split, said.count, said.num_classes) == ("fractals", "test", 7, 3)
    assert said.fingerprint == about.fingerprint
    assert said.description == f"{about.source}; {about.split_rule}"


def test_arithmetic_of_lower_precision_is_recorded_and_near(tmp_path: Path) -> None:
    images = FractalDataset("test", FractalParameters(3, 1, 4, 32), tmp_path)
    dataset, network = EvaluationDataset(images, EvaluationTransform(32)), synco()
    exact = measure_split(network, dataset, QUIET)
    rounded = measure_split(network, dataset, dataclasses.replace(QUIET, precision="bf16"))
    assert "autocast" not in exact.preprocessing
    assert rounded.preprocessing["autocast"] == "bfloat16"
    difference = (rounded.features.values - exact.features.values).norm() / exact.features.values.norm()
    assert 0 < float(difference) < 0.05  # 8 bits of mantissa


def test_a_round_trip_keeps_everything(tmp_path):
    features = Features(torch.randn(3, 4), torch.tensor([0, 1, 0]), torch.tensor([0, 2, 3]), torch.tensor([1]), {})
    split = MeasuredSplit(features, DataSource("d", "test", 3), ("a", "ö"), ("bad.png",), {"image_size": 32})
    model = ModelSource("m", "the feature", None, 7)
    path = save_split(split, model, tmp_path / "f" / "test.safetensors")
    loaded, source = load_split(path)
    assert source == model
    assert (loaded.source, loaded.class_names, loaded.skipped_files) == (split.source, ("a", "ö"), ("bad.png",))
    assert loaded.preprocessing == {"image_size": 32}
    assert torch.equal(loaded.features.values, features.values)
    check_same_model(model, source)
    with pytest.raises(ValueError, match="neighbours need one model"):
        check_same_model(model, ModelSource("n"))
    for other in ({"feature": "another"}, {"revision": "abc"}, {"num_parameters": 8}):
        with pytest.raises(ValueError, match="neighbours need one model"):
            check_same_model(model, dataclasses.replace(source, **other))
    with pytest.raises(ValueError, match="does not say which split"):
        load_split(features.save(tmp_path / "bare.safetensors"))
    with pytest.raises(FileNotFoundError, match="--save-features"):
        load_split(tmp_path / "nowhere")


def folder_of(root: Path, count: int) -> str:
    generator = np.random.default_rng(3)
    for index in range(count):
        path = root / f"class{index % 2}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (50, 70, 3), dtype=np.uint8)).save(path)
    return str(root)


def test_images_are_prepared_as_the_models_processor_does(tmp_path: Path) -> None:
    model = EvaluatedModel(synco(), image_processor(32), "mine")
    split = open_split(DatasetChoice(folder_of(tmp_path, 10)), "test", model)
    expected = model.processor(split.images.load_image(0), return_tensors="pt").pixel_values[0]
    assert split[0]["pixel_values"].shape == (3, 32, 32)
    # Resizing rounds to whole grey levels in one of the two; a level is 1 / 255 / 0.225 after normalisation.
    assert (split[0]["pixel_values"] - expected).abs().max() < 2.5 / 255 / 0.224
    assert (model.mean, model.std) == (split.transform.mean, split.transform.std)


def test_both_splits_come_from_the_same_draw_and_do_not_overlap(tmp_path: Path) -> None:
    model, root = EvaluatedModel(synco(), image_processor(32), "mine"), folder_of(tmp_path, 20)
    names = {}
    for seed in (0, 1):
        train, test = (open_split(DatasetChoice(root, split_seed=seed), which, model) for which in ("train", "test"))
        names[seed] = {test.name(index) for index in range(len(test))}
        assert len(train) + len(test) == 20
        assert not names[seed] & {train.name(index) for index in range(len(train))}
    assert names[0] != names[1]


def test_every_result_is_written_as_it_comes(tmp_path: Path) -> None:
    results = [
        EvaluationResult({"a": value}, ModelSource("m"), DataSource("d", "test", 1), ProtocolFacts("knn"))
        for value in (1.0, 2.0)
    ]
    seen = []

    def one_by_one() -> Iterator[EvaluationResult]:
        for result in results:
            yield result
            seen.append(EvaluationResult.load(tmp_path / "r.json").metrics["a"])

    assert save_each(one_by_one(), tmp_path / "r.json") == results[1]
    assert seen == [1.0, 2.0]
    assert save_each(results, None) == results[1]
