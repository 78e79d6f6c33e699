import importlib
import subprocess
import sys

import pytest

import trainers


@pytest.mark.parametrize("name", trainers.__all__)
def test_every_public_name_is_there(name):
    home = importlib.import_module(trainers._HOMES[name])
    assert getattr(trainers, name) is getattr(home, name)


@pytest.mark.parametrize("package", ["trainers", "synco_hub"])
def test_a_notebook_completes_the_names_that_are_not_loaded_yet(package):
    script = f"import {package}; print(sorted(set({package}.__all__) - set(dir({package}))))"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="SynCoTrainers"):
        _ = trainers.SynCoTrainers


def test_the_losses_come_without_transformers():
    script = "import sys; from trainers import SyntheticNegatives; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
