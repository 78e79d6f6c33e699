"""What is offered, what is loaded, what is refused before anything is downloaded, and how much is kept."""

from pathlib import Path

import pytest
from huggingface_hub import HfApi
from transformers import BertConfig, BertModel

from space_app.model_cache import ModelCache
from synco_hub.hub.pull import install_checkpoint
from synco_hub.models import SynCoForImageClassification
from synco_hub.weights_identity import hash_weights


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(HfApi, "model_info", lambda *_, **__: pytest.fail("the Hub was asked"))


def test_what_ships_and_what_is_installed_is_offered_and_of_one_name_what_is_installed(tmp_path, save_checkpoint):
    shipped = ["synco-v2-vit-nano", "moby-vit-nano", "byol-vit-nano"]
    fresh = ModelCache()
    assert (fresh.offered, fresh.shipped_only) == (shipped, True)
    before = fresh.get("moby-vit-nano")[0]
    assert not any(parameter.requires_grad for parameter in before.parameters())
    for name in ("moby-vit-nano", "mine"):
        install_checkpoint(Path(save_checkpoint(tmp_path / "run")), name)
    cache = ModelCache()
    assert (cache.offered, cache.shipped_only) == ([*shipped, "mine"], False)
    assert hash_weights(cache.get("moby-vit-nano")[0]) == hash_weights(cache.get("mine")[0]) != hash_weights(before)
    assert not ModelCache(["moby-vit-nano"]).shipped_only


def test_of_a_directory_only_the_name_is_shown_and_heads_are_loaded(tmp_path, save_checkpoint):
    source = save_checkpoint(tmp_path / "deep" / "probe", kind=SynCoForImageClassification, num_labels=3)
    cache = ModelCache([source])
    assert cache.offered == ["probe"]
    assert "probe" not in cache
    model, processor = cache.get("probe")
    assert "probe" in cache
    assert isinstance(model, SynCoForImageClassification)
    assert processor.crop_size["height"] == 32
    assert not any(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(ValueError, match="is not a model"):
        cache.get(source)  # a visitor cannot name a place on the server


def test_the_least_recently_used_makes_room(tmp_path, save_checkpoint):
    cache = ModelCache([save_checkpoint(tmp_path / name) for name in "abc"], keep=2)
    first = cache.get("a")[0]
    cache.get("b")
    assert cache.get("a")[0] is first
    cache.get("c")
    assert [name for name in "abc" if name in cache] == ["a", "c"]
    assert len(cache) == 2


@pytest.mark.parametrize(
    "name", ["/etc", "..", "a/../b", "a/b/c", "", "a b/c", "tests/space_app", "-a/b", "a" * 97 + "/b"]
)
def test_what_is_no_hub_id_never_reaches_the_hub(name):
    with pytest.raises(ValueError, match=r"is not a model: choose one from the list"):
        ModelCache().get(name)


def test_a_zoo_name_that_is_not_here_says_how_to_get_it():
    with pytest.raises(ValueError, match="synco-v2-deit-s"):
        ModelCache().get("synco-v2-deit-s")


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path):
    config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=10)
    BertModel(config).save_pretrained(tmp_path / "bert")
    with pytest.raises(ValueError, match="bert cannot be shown: 'bert' has no image processor") as said:
        ModelCache([str(tmp_path / "bert")]).get("bert")
    assert str(tmp_path) not in str(said.value)
