"""Data and models that lie elsewhere continue a run, by `trainers.runs.checkpoints`; other ones do not."""

import json
import shutil

import numpy as np
import pytest
import torch
from command_line import invoke
from PIL import Image

from synco_hub.data import load_dataset, open_stream
from synco_hub.evaluation.resume import hash_contents
from synco_hub.models import SynCoConfig, SynCoModel, image_processor
from trainers import fine_tune, linear_probe, pretrain
from trainers.classification.settings import SETTINGS_FILE as CLASSIFICATION_SETTINGS
from trainers.runs.checkpoints import SETTINGS_FILE, describe_images

QUICK = "--use-cpu --dataloader-num-workers 0 --disable-tqdm true --per-device-train-batch-size 8".split()
TINY = (
    "--backbone vit-nano --depth 1 --queue-size 16 --num-hard-negatives 4 --projection-hidden-dim 16 "
    "--projection-dim 8 --save-steps 2"
).split()


def write_images(folder, seed: int = 0):
    generator = np.random.default_rng(seed)
    for index in range(24):
        place = folder / f"class{index % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (34, 34, 3), dtype=np.uint8)).save(place / f"{index}.png")
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The working directory: images in `ph`, their copy, others of the same names."""
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(write_images(tmp_path / "ph"), tmp_path / "elsewhere" / "copy")
    write_images(tmp_path / "elsewhere" / "ph", seed=1)
    return tmp_path


def pretrain_on(data, steps: int, *flags: str) -> None:
    pretrain.main([*QUICK, *TINY, "--dataset", str(data), "--max-steps", str(steps), "--output-dir", "run", *flags])


def test_pretraining_goes_on_where_the_images_are_now(here, capsys, caplog):
    pretrain_on("ph", 2)
    for steps, place in ((4, here / "ph"), (6, "elsewhere/copy"), (8, "./ph")):
        pretrain_on(place, steps, "--resume")
        assert (here / "run" / f"checkpoint-{steps}").is_dir()
    assert "data was ph and is read from" in caplog.text
    assert json.loads((here / "run" / SETTINGS_FILE).read_text())["data"]["source"] == "ph"
    before = {path: path.stat().st_mtime_ns for path in (here / "run").rglob("*")}
    with pytest.raises(SystemExit):
        pretrain_on("elsewhere/ph", 10, "--resume")
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "already holds a different run (data holds other images" in error
    assert {path: path.stat().st_mtime_ns for path in (here / "run").rglob("*")} == before


def test_a_run_of_an_earlier_version_knows_its_images_by_their_list(here):
    pretrain_on("ph", 2)
    settings = json.loads((here / "run" / SETTINGS_FILE).read_text())
    assert settings["data"].pop("contents")
    (here / "run" / SETTINGS_FILE).write_text(json.dumps(settings))
    pretrain_on(here / "ph", 4, "--resume")
    assert (here / "run" / "checkpoint-4").is_dir()


def test_tables_and_streams_are_known_by_their_contents(here):
    for source, place in (("ph", "table"), ("elsewhere/ph", "strange")):
        shown = invoke(["data", "prepare", source, "--output", place])
        assert shown.exit_code == 0, shown.output
    shutil.copytree(here / "table", here / "other-name")
    found = [hash_contents(load_dataset(str(here / name), "train")) for name in ("table", "other-name", "strange")]
    assert found[0] == found[1] != found[2]
    streams = [open_stream(str(here / name)) for name in ("table", "other-name", "strange")]
    kept = [describe_images(stream.images(), stream)["contents"] for stream in streams]
    assert kept[0] == kept[1] != kept[2]
    assert kept[0] is not None


def test_a_run_on_a_table_goes_on_after_the_folder_was_renamed_and_from_an_earlier_version(here, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", here / "hf")
    assert invoke(["data", "prepare", "ph", "--output", "table"]).exit_code == 0
    pretrain_on("table", 2)
    # What version 0.1 wrote down: the folder's name in the fingerprint, and nothing of the contents.
    earlier = load_dataset("table").description.earlier_fingerprint
    settings, manifest = here / "run" / SETTINGS_FILE, here / "run" / "checkpoint-2" / "manifest.json"
    for file in (settings, manifest):
        kept = json.loads(file.read_text())
        assert kept["data"].pop("earlier_fingerprint") == earlier
        assert kept["data"].pop("contents")
        kept["data"]["fingerprint"] = earlier
        file.write_text(json.dumps(kept))
    pretrain_on("table", 4, "--resume")
    (here / "table").rename(here / "renamed")
    pretrain_on("renamed", 6, "--resume")
    assert (here / "run" / "checkpoint-6").is_dir()


@pytest.mark.parametrize("kind", ["probe", "fine-tune"])
def test_probe_and_fine_tuning_know_model_and_images_wherever_they_lie(here, capsys, kind):
    for number in (0, 1):
        torch.manual_seed(number)
        SynCoModel(SynCoConfig(backbone="vit-nano", depth=1)).save_pretrained(here / f"model{number}")
        image_processor(32).save_pretrained(here / f"model{number}")
    shutil.copytree(here / "model0", here / "elsewhere" / "model")
    main = linear_probe.main if kind == "probe" else fine_tune.main

    def train(model, data, *flags: str) -> None:
        main([*QUICK, "--num-train-epochs", "2", "--model", str(model), "--dataset", str(data),
              "--output-dir", "run", *flags])  # fmt: skip

    train("model0", "ph")
    file = here / "run" / CLASSIFICATION_SETTINGS
    train(here / "model0", here / "ph", "--resume")
    train("elsewhere/model", "elsewhere/copy", "--resume")
    for model, data, word in (("model1", "ph", "weights was"), ("model0", "elsewhere/ph", "holds other images")):
        with pytest.raises(SystemExit):
            train(model, data, "--resume")
        assert word in capsys.readouterr().err
    # As earlier versions wrote it.
    settings = {name: value for name, value in json.loads(file.read_text()).items() if name != "weights"}
    for split in ("train", "test"):
        del settings[split]["contents"]
    file.write_text(json.dumps({**settings, "model": "model0"}))
    train(here / "model0", here / "ph", "--resume")
