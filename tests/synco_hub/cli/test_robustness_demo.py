import pytest
from command_line import invoke

from synco_hub.cli import robustness_demo


@pytest.fixture
def commands(monkeypatch, tmp_path):
    """What would be run; the classifier appears as if it had been trained."""
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path / "home"))
    started = []

    class Done:
        returncode = 0

    def run(command, env, check):
        started.append(command[3:])
        folder = next((flag.split("=", 1)[1] for flag in command if flag.startswith("--output-dir=")), None)
        if folder:
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / "model.safetensors").touch()
        return Done

    monkeypatch.setattr(robustness_demo.subprocess, "run", run)
    return started, Done


def test_without_a_backbone_one_is_pretrained_and_nothing_is_done_twice(commands, tmp_path):
    started, _ = commands
    classifier = robustness_demo._classifier(tmp_path / "out", None, 7)
    assert [command[0] for command in started] == ["pretrain", "linear-probe"]
    assert "--max-steps=7" in started[0]
    assert f"--model={tmp_path / 'out' / 'pretraining'}" in started[1]
    assert robustness_demo._classifier(tmp_path / "out", None, 7) == classifier
    assert len(started) == 2


def test_a_given_or_installed_backbone_is_used(commands, tmp_path):
    started, _ = commands
    robustness_demo._classifier(tmp_path / "given", "moby-vit-nano", 7)
    assert [command[:2] for command in started] == [["linear-probe", "--model=moby-vit-nano"]]


def test_a_classifier_of_another_backbone_is_not_taken(commands, tmp_path):
    started, _ = commands
    probe = robustness_demo._classifier(tmp_path / "out", "timm:vit_tiny_patch16_224", 7)
    (probe / "model.safetensors").rename(probe / "linear_head.safetensors")  # a foreign backbone has a head alone
    (probe / robustness_demo.PROBE_SETTINGS).write_text('{"model": "timm:vit_tiny_patch16_224"}')
    for model in ("timm:vit_tiny_patch16_224", None):
        assert robustness_demo._classifier(tmp_path / "out", model, 7) == probe
    assert len(started) == 1
    with pytest.raises(ValueError, match="is a classifier on timm:vit_tiny_patch16_224, not on moby-vit-nano"):
        robustness_demo._classifier(tmp_path / "out", "moby-vit-nano", 7)


def test_a_failing_step_ends_the_demonstration_and_a_null_attack_does_not(commands, tmp_path):
    _, done = commands
    done.returncode = robustness_demo.NULL_EXIT_CODE
    robustness_demo._run("evaluate", "adversarial")
    for arguments, code in ((("evaluate", "robustness"), 3), (("evaluate", "adversarial"), 1)):
        done.returncode = code
        with pytest.raises(ValueError, match=f"ended with exit code {code}"):
            robustness_demo._run(*arguments)


@pytest.mark.slow
def test_the_whole_demonstration(monkeypatch, tmp_path):
    pytest.importorskip("torchattacks")
    pytest.importorskip("imagecorruptions")
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path / "home"))
    flags = [
        "robustness-demo",
        "--output-dir",
        str(tmp_path / "out"),
        "--pretraining-steps",
        "20",
        "--num-images",
        "20",
    ]
    done = invoke(flags)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "robustness.png").stat().st_size > 20_000
    assert "| glass_blur (blur) |" in (tmp_path / "out" / "table.md").read_text()
