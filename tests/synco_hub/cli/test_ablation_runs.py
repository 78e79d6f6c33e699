import torch

from synco_hub.cli.ablation_runs import UNTRAINED_RESULT_FILE, untrained_run
from synco_hub.models import SynCoConfig, SynCoModel, image_processor

DATA = "fractals:num_classes=2,train_images_per_class=12,test_images_per_class=6"


def test_the_untrained_network_is_that_of_the_seed_and_measured_once(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path / "home"))
    model = SynCoModel(SynCoConfig(backbone="vit-nano", depth=1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    model.save_pretrained(tmp_path / "run")
    image_processor(32).save_pretrained(tmp_path / "run")
    first = untrained_run(3, tmp_path / "run", DATA)
    assert first.arm == "untrained"
    assert 0 < first.metrics["top1_k10"] <= 100
    (tmp_path / "run" / "model.safetensors").unlink()
    assert untrained_run(3, tmp_path / "run", DATA) == first
    assert (tmp_path / "run" / UNTRAINED_RESULT_FILE).is_file()
