import dataclasses
import json
import shutil
from pathlib import Path

import pytest

import synco_hub
from synco_hub import zoo
from synco_hub.models import BACKBONES
from synco_hub.results import EvaluationResult
from synco_hub.weights_identity import hash_saved_weights
from synco_hub.zoo import (
    CHECKSUMS_FILE,
    EMBEDDED,
    ZOO,
    check_embedded,
    checkpoint_directory,
    find_checkpoint_directory,
    find_embedded_directory,
    find_given_directory,
    find_installed_directory,
    home_directory,
    list_models,
    refuse_embedded,
)


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


SHIPPED = [name for name, row in ZOO.items() if row.weights]


def test_three_small_networks_ship_with_card_results_and_nothing_of_another_computer():
    assert SHIPPED == ["synco-v2-vit-nano", "moby-vit-nano", "byol-vit-nano"]
    assert sorted(path.name for path in EMBEDDED.iterdir()) == sorted([*SHIPPED, CHECKSUMS_FILE])
    for name in SHIPPED:
        files = {path.name for path in (EMBEDDED / name).iterdir()}
        assert {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"} < files
        for file in files - {"model.safetensors", "pretraining_images.npz"}:
            text = (EMBEDDED / name / file).read_text(encoding="utf-8")
            assert not any(place in text for place in ("/home", "/root", "/tmp", "/work")), file


@pytest.mark.parametrize("name", SHIPPED)
def test_the_numbers_of_a_row_are_those_of_its_result_files_about_the_weights_that_ship(name, home):
    row = {row.name: row for row in list_models()}[name]
    assert (row.embedded, row.installed, row.directory) == (str(EMBEDDED / name), None, str(EMBEDDED / name))
    assert hash_saved_weights(EMBEDDED / name)[0] == row.weights
    assert row.measured.keys() == row.results.keys()
    metrics = {"knn10": "top1_k10", "knn20": "top1_k20", "logistic": "top1"}
    for measured, value in row.measured.items():
        result = EvaluationResult.load(EMBEDDED / row.results[measured])
        assert result.model.weights == row.weights
        assert (result.model.name, result.dataset.name) == (name, "fractals")
        assert round(result.metrics[metrics[measured.split("_")[1]]], 1) == value
    assert find_checkpoint_directory(name) == EMBEDDED / name


def test_what_the_user_installed_goes_before_what_ships(home):
    directory = _install(home, "moby-vit-nano")
    assert find_checkpoint_directory("moby-vit-nano") == directory
    assert find_embedded_directory("moby-vit-nano") == EMBEDDED / "moby-vit-nano"
    assert find_embedded_directory("moby-deit-s") is find_checkpoint_directory("moby-deit-s") is None
    row = {row.name: row for row in list_models()}["moby-vit-nano"]
    assert (row.directory, row.measured, row.weights) == (str(directory), {}, None)


@pytest.fixture
def package_copy(tmp_path, monkeypatch):
    copy = tmp_path / "package" / "checkpoints"
    shutil.copytree(EMBEDDED, copy)
    monkeypatch.setattr(zoo, "EMBEDDED", copy)
    return copy


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("moby-vit-nano/model.safetensors", "model.safetensors is damaged or missing"),
        ("moby-vit-nano/config.json", "config.json is damaged or missing"),
        (CHECKSUMS_FILE, "is damaged or missing|does not name it"),
    ],
)
@pytest.mark.parametrize("damage", ["one bit", "gone", "empty"])
def test_a_damaged_file_of_the_package_is_one_line(package_copy, home, file, said, damage):
    place = package_copy / file
    content = bytearray(place.read_bytes())
    content[-20 if file == CHECKSUMS_FILE else 20] ^= 1
    if file == CHECKSUMS_FILE:
        content = bytearray(bytes(content).replace(b"  moby", b" moby"))
    place.unlink() if damage == "gone" else place.write_bytes(b"" if damage == "empty" else content)
    with pytest.raises(OSError, match=f"'moby-vit-nano' in the package at .*({said}).*--force-reinstall") as raised:
        find_checkpoint_directory("moby-vit-nano")
    assert "\n" not in str(raised.value)
    if file != CHECKSUMS_FILE:
        assert find_checkpoint_directory("byol-vit-nano") == package_copy / "byol-vit-nano"


def test_checksums_are_read_once_and_hold(home):
    for name in SHIPPED:
        check_embedded(EMBEDDED / name)
    lines = (EMBEDDED / CHECKSUMS_FILE).read_text().splitlines()
    assert len(lines) == len([path for path in EMBEDDED.rglob("*") if path.is_file()]) - 1


def test_a_directory_is_what_it_is_and_a_name_where_it_is(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_given_directory(Path("moby-vit-nano")) == EMBEDDED / "moby-vit-nano"
    assert find_given_directory(Path("MoBY-vit-nano")) == EMBEDDED / "moby-vit-nano"
    for path in (Path("nothing"), Path("./runs/moby-vit-nano"), tmp_path):
        assert find_given_directory(path) == path
    (tmp_path / "moby-vit-nano").mkdir()
    assert find_given_directory(Path("moby-vit-nano")) == Path("moby-vit-nano")


def test_the_packages_own_copy_is_not_changed(tmp_path):
    refuse_embedded(tmp_path, "nothing")
    said = r"belongs to the package.*copy it \(`cp -r .*moby-vit-nano ./moby-vit-nano`\), then `x ./moby-vit-nano`\."
    with pytest.raises(ValueError, match=said):
        refuse_embedded(EMBEDDED / "moby-vit-nano", "`x {copy}`")
