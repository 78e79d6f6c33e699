"""`synco_hub.cli.convert` by the command line, as a user calls it."""

import json
import subprocess
import sys

import torch
from foreign_checkpoints import AUTHORS_CONFIG, moby_like, vit, yacs
from typer.testing import CliRunner

from synco_hub.cli.main import app


def authors_file(directory):
    torch.save(moby_like(vit(), vit(seed=1), yacs(AUTHORS_CONFIG)), directory / "authors.pth")
    return str(directory / "authors.pth")


def test_a_file_is_converted_and_what_was_done_is_said(tmp_path):
    output = tmp_path / "out"
    result = CliRunner().invoke(app, ["convert", authors_file(tmp_path), "--output", str(output)])
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
    again = CliRunner().invoke(app, ["convert", authors_file(tmp_path), "--output", str(output)])
    assert again.exit_code == 1
    assert "choose another output" in str(again.exception)


def test_options_reach_the_conversion(tmp_path):
    flags = ["--num-heads", "6", "--branch", "target", "--layout", "moby"]
    result = CliRunner().invoke(app, ["convert", authors_file(tmp_path), "--output", str(tmp_path / "out"), *flags])
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


def test_help_has_an_example():
    text = " ".join(CliRunner().invoke(app, ["convert", "--help"]).output.split())
    assert "Example: synco-hub convert" in text
