"""A recipe that changes between two calls is noticed, as far as it is what the runs do."""

import json

import pytest

from synco_hub.cli.ablation_plan import PLAN_FILE, keep_to_the_plan, read_plan, read_recipes
from trainers.command import list_flags, split_flags
from trainers.recipe import KINDS, list_recipes, read_recipe


@pytest.mark.parametrize("name", [name for name in list_recipes() if "/" in name or name == "moby-deit-s"])
def test_recipes_say_what_the_trainers_read(name):
    """By the reader that trains, whose values are words."""
    theirs = split_flags(read_recipe(name, list_flags(KINDS)))
    said = read_recipes([name], [])[name]
    said |= said.pop("paper", {})
    words = {key: value if isinstance(value, list) else [value] for key, value in said.items()}
    assert {key: [str(each) for each in value] for key, value in words.items()} == theirs


def test_an_edited_recipe_is_refused_where_its_edit_counts(tmp_path):
    recipe = tmp_path / "own.yaml"
    flags = ["--learning-rate=3e-3", "--queue-size", "16"]

    def keep(text: str, output: str = "ablation") -> bool:
        recipe.write_text(text)
        plan = {"flags": flags, "recipes": read_recipes([str(recipe)], flags)}
        return keep_to_the_plan(tmp_path / output, plan)

    assert keep("method: moby\nlearning_rate: 1.0e-3\nnum_mixup: 16\nqueue_size: 4\n")
    # Words about it, and what a shared flag wins over.
    assert not keep("# mine\nnum_mixup: 16\nmethod: moby\nlearning_rate: 5.0e-3\n")
    with pytest.raises(ValueError, match=r"own.yaml as it was .*num_mixup: 16; now num_mixup: 32.*change it back, or"):
        keep("method: moby\nnum_mixup: 32\n")
    with pytest.raises(ValueError, match=r"then temperature: None; now temperature: 0.1"):
        keep("method: moby\nnum_mixup: 16\ntemperature: 0.1\n")
    assert not keep("method: moby\nnum_mixup: 16\n")
    # Earlier versions knew no recipes in the plan.
    (tmp_path / "earlier").mkdir()
    (tmp_path / "earlier" / PLAN_FILE).write_text(json.dumps({"flags": flags}))
    assert not keep("method: moby\nnum_mixup: 48\n", "earlier")
    with pytest.raises(ValueError, match="num_mixup: 48"):
        keep("method: moby\n", "earlier")


def test_arms_can_be_added(tmp_path):
    for arm in ("a.yaml", "b.yaml"):
        keep_to_the_plan(tmp_path, {"flags": [], "recipes": {arm: {"num_mixup": 1}}})
    assert read_plan(tmp_path, {"flags": []})["recipes"] == {"a.yaml": {"num_mixup": 1}, "b.yaml": {"num_mixup": 1}}


def test_a_recipe_that_cannot_be_read_is_left_to_its_run(tmp_path):
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [")
    names = [str(broken), str(tmp_path / "missing.yaml"), "fashion-mnist/none", "nothing/at-all"]
    assert list(read_recipes(names, [])) == ["fashion-mnist/none"]
