import hashlib
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import ViTConfig, ViTImageProcessor, ViTModel

import synco_hub
from synco_hub.data import load_dataset
from synco_hub.models import SynCoConfig, SynCoForImageClassification, SynCoModel, image_processor
from synco_hub.weights_identity import hash_saved_weights, hash_weights

FRACTALS = "fractals:num_classes=5,train_images_per_class=6,test_images_per_class=3"
QUIET = {"batch_size": 8, "num_workers": 0, "device": "cpu", "progress": False}


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture
def checkpoints(tmp_path):
    """A backbone and a classifier of the drawn images, of weights that no default seed gives."""
    names = load_dataset(FRACTALS, "test", cache_dir=tmp_path / "cache").class_names
    torch.manual_seed(3)
    config = SynCoConfig(backbone="vit-nano", depth=1, id2label=dict(enumerate(names)))
    for name, kind in (("backbone", SynCoModel), ("classifier", SynCoForImageClassification)):
        kind(config).save_pretrained(tmp_path / name)
        image_processor(32).save_pretrained(tmp_path / name)
    return tmp_path / "backbone", tmp_path / "classifier"


def small(seed: int = 0) -> SynCoForImageClassification:
    torch.manual_seed(seed)
    return SynCoForImageClassification(SynCoConfig(backbone="vit-nano", depth=1, num_labels=2))


def test_the_hash_is_that_of_names_shapes_and_bytes_in_the_order_of_names():
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    text = b""
    for name in sorted(network.state_dict()):
        value = network.state_dict()[name]
        text += f"{name}/{value.dtype}/{tuple(value.shape)}".encode() + value.numpy().tobytes()
    assert hash_weights(network) == hashlib.blake2b(text, digest_size=8).hexdigest()


def test_files_have_the_hash_of_what_they_were_saved_from(tmp_path):
    classifier, backbone = small(), SynCoModel(SynCoConfig(backbone="swin-nano"))
    classifier.save_pretrained(tmp_path / "classifier")
    backbone.save_pretrained(tmp_path / "backbone", max_shard_size="200KB")
    assert len(list((tmp_path / "backbone").glob("model-*.safetensors"))) > 1
    assert hash_saved_weights(tmp_path / "classifier") == (hash_weights(classifier), hash_weights(classifier.synco))
    assert hash_saved_weights(tmp_path / "backbone") == (hash_weights(backbone),) * 2
    assert hash_weights(torch.compile(backbone, backend="eager")) == hash_weights(backbone)


def test_the_type_of_storage_plays_no_part_and_every_value_does(tmp_path):
    network = small().bfloat16()
    network.save_pretrained(tmp_path / "half")
    assert hash_saved_weights(tmp_path / "half")[0] == hash_weights(network) == hash_weights(network.float())
    shutil.copytree(tmp_path / "half", tmp_path / "other")
    file = tmp_path / "other" / "model.safetensors"
    tensors = load_file(file)
    tensors["classifier.bias"][1] += 1
    save_file(tensors, file, {"format": "pt"})
    (whole, backbone), (other, same) = (hash_saved_weights(tmp_path / name) for name in ("half", "other"))
    assert whole != other
    assert backbone == same


def test_a_folder_without_weights_has_none(tmp_path):
    with pytest.raises(ValueError, match="holds no weights"):
        hash_saved_weights(tmp_path)


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
def test_what_is_stored_in_half_precision_is_measured_in_single(stored, checkpoints, tmp_path):
    for place, kind in zip(checkpoints, (SynCoModel, SynCoForImageClassification), strict=True):
        kind.from_pretrained(place).to(stored).save_pretrained(place)
    SynCoModel.from_pretrained(tmp_path / "backbone", dtype=torch.float32).save_pretrained(tmp_path / "exact")
    image_processor(32).save_pretrained(tmp_path / "exact")
    expected = synco_hub.evaluate("knn", tmp_path / "exact", FRACTALS, k=3, **QUIET)
    result = synco_hub.evaluate("knn", tmp_path / "backbone", FRACTALS, k=3, **QUIET)
    assert (result.metrics, result.model.weights) == (expected.metrics, expected.model.weights)
    rounded = synco_hub.evaluate("knn", tmp_path / "backbone", FRACTALS, k=3, precision="bf16", **QUIET)
    head = synco_hub.evaluate("classification", tmp_path / "classifier", FRACTALS, **QUIET)
    said = [each.model.precision for each in (result, head, rounded)]
    assert said == ["float32", "float32", "float32, autocast to bfloat16"]


def test_a_random_network_stands_beside_a_trained_one(checkpoints):
    backbone, _ = checkpoints
    trained = synco_hub.evaluate("knn", backbone, FRACTALS, k=3, **QUIET)
    once, again = (synco_hub.evaluate("knn", backbone, FRACTALS, random_network=True, k=3, **QUIET) for _ in range(2))
    assert (once.model, once.metrics) == (again.model, again.metrics)
    assert once.model.name == f"{backbone}, random weights"
    assert once.model.weights not in (None, trained.model.weights)
    assert once.model.num_parameters == trained.model.num_parameters
    with pytest.raises(ValueError, match="--random-network is about the model of --model: give it"):
        synco_hub.evaluate("efficiency", random_network=True, device="cpu")


def test_a_revision_needs_a_model_on_the_hub(checkpoints):
    backbone, classifier = checkpoints
    for protocol, name in (("knn", backbone), ("classification", classifier), ("efficiency", backbone)):
        with pytest.raises(ValueError, match=r"--model-revision v1 of .*: it is a directory on this computer"):
            synco_hub.evaluate(protocol, name, model_revision="v1")
    with pytest.raises(ValueError, match="--model-revision v1 is about the model of --model: leave out --features"):
        synco_hub.evaluate("knn", features="f", model_revision="v1")


def test_what_a_checkpoint_lacks_and_nothing_uses_makes_no_other_model(tmp_path):
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    )
    ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "vit")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vit")
    once, again = (synco_hub.evaluate("knn", tmp_path / "vit", FRACTALS, k=3, **QUIET) for _ in range(2))
    assert once.model == again.model
