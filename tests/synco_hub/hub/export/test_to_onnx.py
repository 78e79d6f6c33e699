"""What `synco_hub.hub.export.to_onnx` needs to be installed, said by the whole export."""

import importlib.util

import pytest

from synco_hub.hub.export.export import export
from synco_hub.models import SynCoConfig, SynCoModel, image_processor


def test_without_its_packages_it_says_what_to_install(tmp_path, monkeypatch):
    SynCoModel(SynCoConfig("vit-nano")).save_pretrained(tmp_path / "model")
    image_processor(32).save_pretrained(tmp_path / "model")
    real = importlib.util.find_spec
    # As if the others were there, whatever is installed here: only that they are found is asked of them.
    stands_in = {"onnx": real("json"), "onnxruntime": real("json"), "onnxscript": None}
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name, *rest: stands_in[name] if name in stands_in else real(name, *rest),
    )
    with pytest.raises(ImportError, match=r"onnxscript not installed.*pip install 'synco-hub\[onnx\]'"):
        export(str(tmp_path / "model"), tmp_path / "out", "onnx")
    assert not (tmp_path / "out").exists()
