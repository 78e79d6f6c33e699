"""`synco_hub.cli.card_verification` by the command line, as a user calls it."""

import json

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from synco_hub.cli.demo_steps import measure
from synco_hub.cli.main import app
from synco_hub.hub.card.model_card import refresh_card
from synco_hub.models import SynCoConfig, SynCoModel, image_processor
from synco_hub.results import EvaluationResult


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A random network, measured on the embedded fractals, with its card."""
    directory = tmp_path_factory.mktemp("verified") / "my-vit"
    torch.manual_seed(0)
    model = SynCoModel(SynCoConfig(backbone="vit-nano")).eval()
    model.save_pretrained(directory)
    image_processor(32).save_pretrained(directory)
    measure(model, "my-vit").save(directory / "results_knn.json")
    refresh_card(directory, licence="mit")
    return directory


def verify(directory, *flags: str):
    return CliRunner().invoke(app, ["card", "verify", str(directory), "--num-workers", "0", *flags])


def altered(run, **changes):
    values = json.loads((run / "results_knn.json").read_text())
    for key, change in changes.items():
        values[key] = {**values[key], **change}
    return EvaluationResult.from_dict(values)


def test_true_numbers_hold_and_false_ones_do_not(run):
    done = verify(run, "--tolerance", "0")
    assert done.exit_code == 0, done.exception
    stated = json.loads((run / "results_knn.json").read_text())["metrics"]["top1_k10"]
    assert f"top1_k10 stated {stated:.2f}, measured {stated:.2f}" in done.output
    original = (run / "results_knn.json").read_text()
    try:
        altered(run, metrics={"top1_k10": stated + 5}).save(run / "results_knn.json")
        both = verify(run)
        assert "the card does not say" in str(both.exception)
        refresh_card(run)
        assert f"knn on fractals: top1_k10 stated {stated + 5:.2f}, measured {stated:.2f}" in str(
            verify(run).exception
        )
        assert verify(run, "--tolerance", "6").exit_code == 0
    finally:
        (run / "results_knn.json").write_text(original)
        refresh_card(run)


def test_what_cannot_be_measured_here_is_said_and_is_no_success(run, tmp_path):
    original = (run / "results_knn.json").read_text()
    try:
        for change in ({"name": "holiday"}, {"fingerprint": "other"}):
            altered(run, dataset=change).save(run / "results_knn.json")
            refresh_card(run)
            done = verify(run)
            assert done.exit_code == 1
            assert "none of the card's numbers can be measured here: knn on" in str(done.exception)
        Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
        assert verify(run, "--dataset", str(tmp_path)).exit_code == 1
    finally:
        (run / "results_knn.json").write_text(original)
        refresh_card(run)
    assert "has no card" in str(verify(tmp_path).exception)
