from importlib.metadata import PackageNotFoundError, version

import pytest

import synco_hub
from synco_hub.version import __version__


def test_equals_the_installed_metadata():
    try:
        installed = version("synco-hub")
    except PackageNotFoundError:
        pytest.skip("the package is on the path here, not installed")
    assert __version__ == installed


def test_is_a_release_number_and_public():
    assert all(part.isdigit() for part in __version__.split(".")[:2])
    assert synco_hub.__version__ is __version__
