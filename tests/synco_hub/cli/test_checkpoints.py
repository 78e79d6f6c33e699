"""Checkpoints are converted, exported, fetched and published by the commands of `synco_hub.cli.checkpoints`."""

import json
import re
import shlex
import subprocess
import sys

import pytest
import torch
from command_line import invoke
from foreign_checkpoints import AUTHORS_CONFIG, moby_like, vit, yacs

from synco_hub.hub import pull as pulling
from synco_hub.hub.card.model_card import refresh_card
from synco_hub.hub.publication import publish as publishing
from synco_hub.hub.pull import install_checkpoint
from synco_hub.models import SynCoConfig, SynCoModel, image_processor


def authors_file(directory):
    torch.save(moby_like(vit(), vit(seed=1), yacs(AUTHORS_CONFIG)), directory / "authors.pth")
    return str(directory / "authors.pth")


def test_a_file_is_converted_and_what_was_done_is_said(tmp_path):
    output = tmp_path / "out"
    result = invoke(["convert", authors_file(tmp_path), "--output", str(output)])
    assert result.exit_code == 0, result.output
    report = json.loads((output / "conversion_report.json").read_text())
    for said in (
        "layout: synco-v2",
        "heads: 12",
        f"all {report['tensors_in_file']} tensors",
        report["source"]["sha256"],
        f"wrote {output}",
    ):
        assert said in result.output.replace("\n", " ") or said in result.output
    again = invoke(["convert", authors_file(tmp_path), "--output", str(output)])
    assert again.exit_code == 1
    assert "choose another output" in str(again.exception)


def test_options_reach_the_conversion(tmp_path):
    flags = ["--num-heads", "6", "--branch", "target", "--layout", "moby"]
    result = invoke(["convert", authors_file(tmp_path), "--output", str(tmp_path / "out"), *flags])
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out" / "conversion_report.json").read_text())
    found = (report["heads"]["num_heads"], report["branch"]["name"], report["layout"]["name"])
    assert found == (6, "target", "moby")


def test_a_hostile_file_is_one_line_and_exit_code_1(tmp_path):
    class Run:
        def __reduce__(self):
            return exec, (f"open({str(tmp_path / 'sentinel')!r}, 'w').close()",)

    torch.save({"model": {"x": torch.zeros(1)}, "config": Run()}, tmp_path / "evil.pth")
    command = [sys.executable, "-m", "synco_hub.cli", "convert", str(tmp_path / "evil.pth"), "--output"]
    done = subprocess.run([*command, str(tmp_path / "out")], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "nothing in it was run" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.pth"]


@pytest.fixture
def installed(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path / "home"))
    SynCoModel(SynCoConfig("vit-nano")).save_pretrained(tmp_path / "model")
    image_processor(32).save_pretrained(tmp_path / "model")
    install_checkpoint(tmp_path / "model", "moby-vit-nano")
    return "moby-vit-nano"


@pytest.mark.parametrize("format_name", ["transformers", "timm", "safetensors"])
def test_a_short_name_is_exported(tmp_path, installed, format_name):
    output = tmp_path / "out"
    result = invoke(["export", installed, "--format", format_name, "--output", str(output)])
    assert result.exit_code == 0, result.output
    report = json.loads((output / "export_report.json").read_text())
    assert report["format"] == format_name
    assert report["difference"] <= 1e-5
    assert f"wrote {output}" in result.output.replace("\n", "")
    assert report["how_to_load"] in (output / "README.md").read_text()


def test_faults_are_told(tmp_path, installed):
    wrong = invoke(["export", installed, "--format", "pickle", "--output", str(tmp_path / "out")])
    assert wrong.exit_code == 1
    assert "use one of transformers, timm, onnx, safetensors" in str(wrong.exception)
    absent = invoke(["export", "byol-deit-s", "--output", str(tmp_path / "out")])
    assert absent.exit_code == 1
    assert "not on this computer" in str(absent.exception)
    assert not (tmp_path / "out").exists()


def test_pull_and_list_say_where_a_checkpoint_comes_from(hub_api, tmp_path, monkeypatch):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(pulling, "HfApi", lambda: hub_api)
    SynCoModel(SynCoConfig(backbone="vit-nano")).save_pretrained(tmp_path / "run")
    hub_api.create_repo("tester/mine")
    commit = hub_api.upload_folder(repo_id="tester/mine", folder_path=tmp_path / "run").oid
    arguments = ["pull", "moby-vit-nano", "--from", "tester/mine", "--revision", commit]
    done = invoke(arguments)
    assert done.exit_code == 0, done.exception
    assert f"from tester/mine at {commit}" in done.output
    assert f"--revision {commit}" in done.output
    rows = {row["name"]: row for row in json.loads(invoke(["list", "--json"]).output)}
    assert (rows["moby-vit-nano"]["source"], rows["moby-vit-nano"]["revision"]) == ("tester/mine", commit)
    shown = next(line for line in invoke(["list"]).output.splitlines() if "moby-vit-nano" in line)
    assert shown.endswith(f"from tester/mine at {commit[:12]}")


@pytest.mark.parametrize("name", ["synco-v2-swin-t", "no-such-name"])
def test_what_is_nowhere_is_an_error(name, tmp_path, monkeypatch):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path))
    done = invoke(["pull", name])
    assert isinstance(done.exception, ValueError)


@pytest.fixture
def run(tmp_path):
    SynCoModel(SynCoConfig(backbone="vit-nano")).save_pretrained(tmp_path / "my-vit")
    image_processor(32).save_pretrained(tmp_path / "my-vit")
    return tmp_path / "my-vit"


def publish(*arguments: str, answer: str = ""):
    return invoke(["publish", *arguments, "--repo-id", "tester/my-vit"], answer)


def test_it_shows_what_goes_asks_and_sends(run, hub, hub_api, monkeypatch):
    monkeypatch.setattr(publishing, "HfApi", lambda: hub_api)
    without_licence = publish(str(run), "--yes")
    assert isinstance(without_licence.exception, ValueError)
    assert "there is no card" in str(without_licence.exception)
    refresh_card(run, "tester/my-vit")
    assert "no licence has been chosen: `synco-hub card" in str(publish(str(run), "--yes").exception)
    refresh_card(run, licence="apache-2.0")

    dry = publish(str(run), "--dry-run")
    assert dry.exit_code == 0, dry.exception
    size = (run / "model.safetensors").stat().st_size
    assert f"{size:,}  model.safetensors" in dry.output
    assert hub.requests == []

    for answer in ("n\n", ""):
        refused = publish(str(run), answer=answer)
        assert isinstance(refused.exception, ValueError)
        assert hub.requests == []

    for arguments, answer in (((str(run), "--private"), "y\n"), ((str(run), "--yes"), "")):
        sent = publish(*arguments, answer=answer)
        assert sent.exit_code == 0, sent.exception
        assert f"published tester/my-vit at {hub_api.model_info('tester/my-vit').sha}" in sent.output
    assert hub.store.repositories["model", "tester/my-vit"].private


def test_staging_alone_needs_no_hub_and_publishing_asks(tmp_path, hub, hub_api, monkeypatch):
    monkeypatch.setattr(publishing, "HfApi", lambda: hub_api)
    staged = invoke(["publish-space", "--dry-run", "--output", str(tmp_path / "space")])
    assert staged.exit_code == 0, staged.exception
    assert "python app.py" in staged.output
    assert (tmp_path / "space" / "app.py").is_file()
    refused = invoke(["publish-space", "--repo-id", "tester/page"], answer="n\n")
    assert isinstance(refused.exception, ValueError)
    assert hub.requests == []
    sent = invoke(["publish-space", "--repo-id", "tester/page", "--yes", "--private"])
    assert sent.exit_code == 0, sent.exception
    assert "published the Space tester/page" in sent.output
    assert hub.store.repositories["space", "tester/page"].private


@pytest.mark.parametrize("arguments", [[], ["--dry-run"], ["--output", "somewhere"]])
def test_where_to_is_asked_for(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = invoke(["publish-space", *arguments])
    assert "give --repo-id" in str(done.exception)
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_that_ships_is_published_from_a_copy_as_the_error_says(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    publish = ["--repo-id", "organisation/nano", "--dry-run"]
    refused = str(invoke(["publish", "byol-vit-nano", *publish]).exception)
    copy, card = (shlex.split(command) for command in re.findall("`(.*?)`", refused))
    subprocess.run(copy, check=True)
    assert invoke(card[1:]).exit_code == 0
    done = invoke(["publish", "./byol-vit-nano", *publish])
    assert done.exit_code == 0, done.exception
    assert "model.safetensors" in done.output
    assert "results_knn_fractals.json" in done.output


def test_what_ships_is_not_pulled_unless_a_repository_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path / "home"))
    said = str(invoke(["pull", "byol-vit-nano"]).exception)
    assert said.startswith("'byol-vit-nano' ships with the package")
    assert "--from organisation/name" in said
