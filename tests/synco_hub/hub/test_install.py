import errno
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from synco_hub.hub.install import install_checkpoint
from synco_hub.models import SynCoConfig, SynCoModel
from synco_hub.zoo import checkpoint_directory, list_models


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path / "home"))


def checkpoint(directory, seed: int) -> SynCoModel:
    torch.manual_seed(seed)
    model = SynCoModel(SynCoConfig(backbone="vit-nano"))
    model.save_pretrained(directory)
    (directory / "optimizer.pt").write_text("large and of no use")
    return model


def test_an_installed_checkpoint_loads_by_name_and_is_replaced_whole(tmp_path):
    for seed in (0, 1):
        model = checkpoint(tmp_path / f"run{seed}", seed)
        install_checkpoint(tmp_path / f"run{seed}", "my-vit")
        loaded = AutoModel.from_pretrained("my-vit")
        assert torch.equal(loaded.backbone.norm.weight, model.backbone.norm.weight)
        assert torch.equal(loaded.backbone.patch_embed.proj.weight, model.backbone.patch_embed.proj.weight)
    directory = checkpoint_directory("my-vit")
    assert not (directory / "optimizer.pt").exists()
    assert [path.name for path in directory.parent.iterdir()] == ["my-vit"]
    assert "my-vit" in [row.name for row in list_models() if row.installed]


def test_what_is_no_checkpoint_or_no_name_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"config\.json"):
        install_checkpoint(tmp_path, "my-vit")
    checkpoint(tmp_path / "run", 0)
    with pytest.raises(ValueError, match="not a checkpoint name"):
        install_checkpoint(tmp_path / "run", "../outside")
    assert not (tmp_path / "outside").exists()


def test_where_it_came_from_is_noted_and_a_broken_note_is_passed_over(tmp_path):
    checkpoint(tmp_path / "run", 0)
    directory = install_checkpoint(tmp_path / "run", "my-vit")
    rows = {row.name: row for row in list_models()}
    assert (rows["my-vit"].source, rows["my-vit"].revision) == (str(tmp_path / "run"), None)
    install_checkpoint(tmp_path / "run", "my-vit", {"source": "somebody/it", "revision": "abc"})
    rows = {row.name: row for row in list_models()}
    assert (rows["my-vit"].source, rows["my-vit"].revision) == ("somebody/it", "abc")
    for broken in ("{", "[]", '"text"'):
        (directory / "installed_from.json").write_text(broken)
        assert {row.name: row for row in list_models()}["my-vit"].source is None


@pytest.mark.parametrize("spoil", ["config", "weights", "garbage"])
def test_weights_that_do_not_fit_replace_nothing(tmp_path, spoil):
    checkpoint(tmp_path / "good", 0)
    installed = install_checkpoint(tmp_path / "good", "my-vit")
    before = (installed / "config.json").read_bytes(), (installed / "model.safetensors").read_bytes()
    run = tmp_path / "run"
    checkpoint(run, 1)
    if spoil == "config":
        (run / "config.json").write_text((run / "config.json").read_text().replace('"depth": 3', '"depth": 2'))
    elif spoil == "weights":
        (run / "model.safetensors").rename(run / "linear_head.safetensors")
    else:
        (run / "model.safetensors").write_bytes(b"x")
    message = {"config": "14 left over|12 left over", "weights": "no model.safetensors", "garbage": "cannot be read"}
    with pytest.raises(ValueError, match=f"{message[spoil]}.*Nothing was installed"):
        install_checkpoint(run, "my-vit")
    assert before == ((installed / "config.json").read_bytes(), (installed / "model.safetensors").read_bytes())


def test_two_at_once_take_turns_at_the_place(tmp_path, monkeypatch):
    """The first is held at its last step until the second has had a second's time to come there too."""
    for seed in (0, 1):
        checkpoint(tmp_path / f"run{seed}", seed)
    rename, both = Path.rename, threading.Barrier(2)

    def held(path, target):
        if path.name == "new":
            with suppress(threading.BrokenBarrierError):
                both.wait(timeout=1)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", held)
    with ThreadPoolExecutor(2) as threads:
        runs = [threads.submit(install_checkpoint, tmp_path / f"run{seed}", "my-vit") for seed in (0, 1)]
        directory, other = (run.result(timeout=60) for run in runs)
    assert directory == other == checkpoint_directory("my-vit")
    source = Path({row.name: row for row in list_models()}["my-vit"].source)
    assert (directory / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    assert [path.name for path in directory.parent.iterdir()] == ["my-vit"]


def killed_between_its_two_renames(directory):
    """What is on disk then: the old one moved away, the new one not yet in its place."""
    beside = directory.with_name(f".installing-{directory.name}")
    (beside / "new").mkdir(parents=True)
    (beside / "new" / "config.json").write_text("{")
    directory.rename(beside / "old")


def test_the_next_installation_tidies_up_after_a_killed_one(tmp_path):
    checkpoint(tmp_path / "old", 0)
    new = checkpoint(tmp_path / "new", 1)
    directory = install_checkpoint(tmp_path / "old", "my-vit")
    killed_between_its_two_renames(directory)
    assert install_checkpoint(tmp_path / "new", "my-vit") == directory
    assert torch.equal(AutoModel.from_pretrained("my-vit").backbone.norm.weight, new.backbone.norm.weight)
    assert [path.name for path in directory.parent.iterdir()] == ["my-vit"]


@pytest.mark.parametrize("killed_before", [False, True])
@pytest.mark.parametrize("fails", ["copy", "rename"])
def test_a_disk_that_fails_leaves_the_old_one_installed(tmp_path, monkeypatch, fails, killed_before):
    old = checkpoint(tmp_path / "old", 0)
    checkpoint(tmp_path / "new", 1)
    directory = install_checkpoint(tmp_path / "old", "my-vit")
    if killed_before:
        killed_between_its_two_renames(directory)
    rename = Path.rename

    def full(*paths):
        raise OSError(errno.ENOSPC, "No space left on device", str(paths[-1]))

    with monkeypatch.context() as patched:
        if fails == "copy":
            patched.setattr(shutil, "copy2", full)
        else:
            patched.setattr(Path, "rename", lambda a, b: full(a, b) if a.name == "new" else rename(a, b))
        with pytest.raises(OSError, match="No space left"):
            install_checkpoint(tmp_path / "new", "my-vit")
    loaded = AutoModel.from_pretrained("my-vit")
    assert torch.equal(loaded.backbone.patch_embed.proj.weight, old.backbone.patch_embed.proj.weight)
    assert [path.name for path in directory.parent.iterdir()] == ["my-vit"]
