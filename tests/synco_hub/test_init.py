import subprocess
import sys

import pytest

import synco_hub

LIGHT = """
import sys
import synco_hub
heavy = {"torch", "torchvision", "transformers", "timm", "datasets", "evaluate", "gradio", "torchattacks", "trainers"}
loaded = heavy & set(sys.modules)
assert not loaded, loaded
assert len(synco_hub.list_models()) >= 9
assert not heavy & set(sys.modules)
try:
    synco_hub.SynCoModell
except AttributeError as error:
    assert "SynCoModell" in str(error)
else:
    raise AssertionError("no AttributeError")
assert not heavy & set(sys.modules)
"""


def test_importing_and_listing_stays_light():
    finished = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr


def test_every_public_name_is_there():
    for name in synco_hub.__all__:
        assert getattr(synco_hub, name) is not None, name
    assert synco_hub.SynCoModel.__module__ == "synco_hub.models.modeling_synco"
    namespace: dict[str, object] = {}
    exec("from synco_hub import *", namespace)
    assert set(synco_hub.__all__) <= set(namespace)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'synco_hub' has no attribute 'SynCoForPreTraining'"):
        _ = synco_hub.SynCoForPreTraining
