"""What tests of several folders share: a Hub on loopback, which real clients talk to."""

import sys
from pathlib import Path

import pytest

# Behind everything else, so that the folders of tests never hide the packages they are named after.
sys.path.append(str(Path(__file__).parent))


@pytest.fixture
def hub(monkeypatch):
    """A fresh Hub; the client of this process retries without waiting and uploads by the LFS protocol."""
    import time
    from types import SimpleNamespace

    from huggingface_hub import constants
    from loopback_hub.server import loopback_hub

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    patient = SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None})
    for module in ("utils._http", "file_download"):
        monkeypatch.setattr(f"huggingface_hub.{module}.time", patient)
    with loopback_hub() as running:
        yield running


@pytest.fixture
def hub_api(hub, monkeypatch, tmp_path):
    """The real client, logged in to the loopback Hub; its cache is empty."""
    from huggingface_hub import HfApi, constants
    from loopback_hub.server import TOKEN

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf-cache"))
    return HfApi(endpoint=hub.url, token=TOKEN)
