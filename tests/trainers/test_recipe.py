import pytest
import yaml

from trainers.pretrain import parse
from trainers.recipe import RECIPES, recipe_flags, recipe_names


def test_a_recipe_becomes_flags_in_order(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("method: moby\nnum-heads: [2, 4]\nlearning_rate: 1e-3\n")
    flags = recipe_flags(str(file), ["method", "num_heads", "learning_rate"])
    assert flags == ["--method", "moby", "--num_heads", "2", "4", "--learning_rate", "1e-3"]


@pytest.mark.parametrize(
    ("text", "message"),
    [("metod: moby\n", "Did you mean 'method'"), ("- a\n- b\n", "is a list"), ("", "is a NoneType")],
)
def test_a_bad_recipe_is_refused(tmp_path, text, message):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        recipe_flags(str(file), ["method"])


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(ValueError, match="synco-v2-deit-s"):
        recipe_flags("synco-v2-deit", ["method"])


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_parses_and_says_what_its_name_says(name, tmp_path):
    run = parse(["--recipe", name, "--output-dir", str(tmp_path), "--use-cpu"])
    values = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
    assert run.settings.method == values["method"]
    assert run.backbone.backbone == values["backbone"]
    assert run.training.num_train_epochs == values.get("num_train_epochs", 300)


def test_flags_given_by_the_user_win_over_the_recipe(tmp_path):
    run = parse(["--backbone", "swin-t", "--recipe", "byol-deit-s", "--output-dir", str(tmp_path), "--use-cpu"])
    assert run.backbone.backbone == "swin-t"
    assert run.settings.method == "byol"
    assert run.training.gradient_accumulation_steps == 8
    assert run.training.global_batch_size == 1024
