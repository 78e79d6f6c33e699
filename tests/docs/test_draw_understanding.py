"""The pictures of Understand show what the definitions give."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script():
    specification = importlib.util.spec_from_file_location("draw_understanding", ROOT / "docs/draw_understanding.py")
    module = importlib.util.module_from_spec(specification)
    sys.modules["draw_understanding"] = module
    specification.loader.exec_module(module)
    return module


def test_the_points_lie_where_the_formulas_put_them(script):
    query, queue = script.draw_queue()
    hard = queue[(queue @ query[0]).topk(10).indices]
    made = script.sample_for_sphere(query, queue)
    assert set(made) == set(script.TITLES)
    for points in made.values():
        torch.testing.assert_close(points.norm(dim=1), torch.ones(len(points)))
    # Interpolation, extrapolation and the step along the gradient stay in the plane of query and one hard negative.
    normals = normalize(torch.linalg.cross(query.expand_as(hard), hard), dim=1)
    for kind in ("interpolation", "extrapolation", "gradient_perturbation"):
        assert (made[kind] @ normals.T).abs().min(dim=1).values.max() < 1e-5
    # A sign step is the same for every negative, up to length.
    steps = normalize(hard + script.SHOWN_STEP * query.sign(), dim=1)
    apart = (made["adversarial_perturbation"][:, None] - steps).norm(dim=2)
    assert apart.min(dim=1).values.max() < 1e-5
    nearer = (made["interpolation"] @ query[0]).mean() > (hard @ query[0]).mean()
    assert nearer


def test_both_pictures_are_written_and_the_committed_ones_are_of_the_same_kinds(script, tmp_path):
    script.main(["--output", str(tmp_path)])
    for name in ("synthetic-negatives.svg", "synthesis-window.svg"):
        drawn, kept = ((folder / name).read_text() for folder in (tmp_path, ROOT / "docs" / "pictures"))
        assert drawn.count("<use") == kept.count("<use")
        assert drawn.count("<text") == kept.count("<text")
    assert all(title in (tmp_path / "synthetic-negatives.svg").read_text() for title in script.TITLES.values())
