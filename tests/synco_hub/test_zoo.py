import dataclasses
import json
from pathlib import Path

import pytest

import synco_hub
from synco_hub.models import BACKBONES
from synco_hub.zoo import ZOO, checkpoint_directory, find_installed_directory, home_directory, list_models


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path / "zoo"))
    return tmp_path / "zoo"


def _install(home: Path, name: str) -> Path:
    directory = home / "checkpoints" / name
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    return directory


def test_the_six_networks_of_the_paper_and_the_small_ones():
    expected = {f"{m}-{b}" for m in ("synco-v2", "moby", "byol") for b in ("deit-s", "swin-t", "vit-nano")}
    assert set(ZOO) == expected
    for name, row in ZOO.items():
        assert row.name == name == f"{row.method}-{row.backbone}"
        assert row.backbone in BACKBONES
        assert row.licence
        assert "synco-hub" in row.how_to_obtain


def test_numbers_of_the_paper():
    # Table 13 (linear, ImageNet), Table 12 (k-NN, k = 10 and 20).
    expected = {
        "synco-v2-deit-s": (73.1, 71.02, 70.45),
        "synco-v2-swin-t": (75.4, 69.28, 68.72),
        "moby-deit-s": (72.3, 64.38, 64.26),
        "moby-swin-t": (74.7, 67.84, 67.14),
        "byol-deit-s": (70.3, 62.53, 62.43),
        "byol-swin-t": (68.5, 58.10, 57.96),
    }
    for name, row in ZOO.items():
        assert tuple(row.paper.values()) == expected.get(name, ())


def test_nothing_is_published_under_a_name_that_anybody_could_take():
    for row in ZOO.values():
        assert row.hub_repo is None or row.hub_repo.count("/") == 1


def test_home_is_set_by_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SYNCO_HUB_HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert home_directory() == tmp_path / ".cache" / "synco_hub"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert home_directory() == tmp_path / "cache" / "synco_hub"
    monkeypatch.setenv("SYNCO_HUB_HOME", "~/elsewhere")
    assert home_directory() == tmp_path / "elsewhere"
    monkeypatch.setenv("SYNCO_HUB_HOME", "")
    assert home_directory() == tmp_path / "cache" / "synco_hub"


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../synco-v2-deit-s", "a/b", "a\\b", "/etc", "~", ".hidden", "-x", "a b", "a\n", "x" * 97, "é"],
)
def test_names_that_could_leave_the_directory_are_refused(name, home):
    with pytest.raises(ValueError, match="is not a checkpoint name: use up to 96 letters, digits"):
        checkpoint_directory(name)
    assert find_installed_directory(name) is None


@pytest.mark.parametrize("name", ["synco-v2-deit-s", "my_run.3", "a..b", "x" * 96, "7"])
def test_names_stay_below_the_home(name, home):
    directory = checkpoint_directory(name)
    assert directory.parent == home / "checkpoints"
    assert directory.resolve().is_relative_to(home.resolve())
    assert find_installed_directory(name) is None
    _install(home, name)
    assert find_installed_directory(name) == directory


def test_lists_the_zoo_when_nothing_is_installed(home):
    rows = list_models()
    assert [row.name for row in rows] == list(ZOO)
    assert all(row.installed is None for row in rows)
    assert not home.exists()
    assert synco_hub.list_models is list_models


def test_lists_what_is_installed_and_passes_over_what_is_broken(home):
    ours, paper = _install(home, "my-photographs"), _install(home, "moby-swin-t")
    _install(home, "another")
    (home / "checkpoints" / "half-written").mkdir()
    (home / "checkpoints" / "half-written" / "model.safetensors").write_text("")
    (home / "checkpoints" / "a-file").write_text("")
    (home / "checkpoints" / "dangling").symlink_to(home / "nowhere")
    _install(home, ".installing-7f3a")
    rows = {row.name: row for row in list_models()}
    assert list(rows) == [*ZOO, "another", "my-photographs"]
    assert rows["moby-swin-t"].installed == str(paper)
    assert rows["moby-swin-t"].paper == ZOO["moby-swin-t"].paper
    assert rows["my-photographs"].installed == str(ours)
    assert rows["my-photographs"].method is None
    assert rows["synco-v2-deit-s"].installed is None
    assert ZOO["moby-swin-t"].installed is None


def test_rows_are_plain_data(home):
    _install(home, "mine")
    assert len(json.loads(json.dumps([dataclasses.asdict(row) for row in list_models()]))) == len(ZOO) + 1
