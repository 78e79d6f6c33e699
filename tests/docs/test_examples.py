"""The scripts of docs/examples train heads of `transformers` that begin with the weights of a checkpoint of ours."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from composed_pictures import draw_cut_outs, draw_photographs, write_pictures
from PIL import Image
from transformers import (
    AutoBackbone,
    AutoModelForObjectDetection,
    AutoModelForSemanticSegmentation,
    DeformableDetrConfig,
    DeformableDetrForObjectDetection,
    DFineConfig,
    DFineForObjectDetection,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    RTDetrConfig,
    RTDetrForObjectDetection,
    SwinConfig,
    SwinModel,
)

from synco_hub.models import SynCoBackbone, SynCoConfig, SynCoModel, image_processor

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
TRAINING = (
    "--max_steps 2 --per_device_train_batch_size 2 --use_cpu --report_to none --disable_tqdm true --save_steps 2"
)


def _example(name):
    specification = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module  # its dataclasses look themselves up
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    swin = {"backbone": "swin-t", "embed_dim": 12, "depth": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]}
    small = {"image_size": 64, "patch_size": 2, "window_size": 4}
    for name, numbers in (("vit", {"backbone": "vit-nano"}), ("swin", {**swin, **small})):
        torch.manual_seed(7)
        SynCoModel(SynCoConfig(**numbers)).save_pretrained(folder / name)
        image_processor(32).save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for split, count in (("train", 4), ("test", 2)):
        write_pictures(folder, split, count, draw_photographs(), draw_cut_outs(), 64)
    return folder


def _boxes(folder, pictures):
    """The same pictures as COCO's boxes, of which one picture has none; identifiers with a gap."""
    for split in ("train", "test"):
        listed = {
            "images": [],
            "annotations": [],
            "categories": [{"id": 3, "name": "disc"}, {"id": 8, "name": "triangle"}],
        }
        (folder / split).mkdir(parents=True)
        for number, path in enumerate(sorted((pictures / "images" / split).iterdir())):
            Image.open(path).crop((0, 0, 64, 60 + number)).save(folder / split / path.name)
            listed["images"].append({"id": number, "file_name": path.name})
            mask = np.asarray(Image.open(pictures / "masks" / split / path.name))[: 60 + number]
            for value, category in ((1, 3), (2, 8)):
                rows, columns = np.nonzero(mask == value)
                if number and len(rows):
                    box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
                    about = {"image_id": number, "category_id": category, "bbox": list(map(float, box))}
                    listed["annotations"].append(about)
        (folder / split / "annotations.json").write_text(json.dumps(listed))
    return folder


def _same_backbone(network, checkpoint):
    (own,) = (module for module in network.modules() if isinstance(module, SynCoBackbone))
    for name, value in SynCoModel.from_pretrained(checkpoint).state_dict().items():
        assert torch.equal(own.synco.state_dict()[name], value), name


@pytest.mark.parametrize(("kind", "maps"), [("vit", ""), ("vit", " --last_block"), ("swin", "")])
def test_upernet_begins_with_the_checkpoints_weights_trains_and_loads(kind, maps, checkpoints, pictures, tmp_path):
    script = _example("train_segmentation")
    network = script.build_network(str(checkpoints / kind), ["a", "b", "c"], 8, bool(maps))
    _same_backbone(network, checkpoints / kind)
    assert len(network.backbone.channels) == {"": 3, " --last_block": 4}[maps] if kind == "vit" else 4
    words = f"--model {checkpoints / kind} --data {pictures} --output_dir {tmp_path} --size 64 --hidden_size 8"
    metrics = script.main(f"{words} {TRAINING}{maps}".split())
    assert 0 <= metrics["eval_miou"] <= 100
    loaded = AutoModelForSemanticSegmentation.from_pretrained(tmp_path)
    assert loaded(torch.zeros(1, 3, 50, 70)).logits.shape == (1, 3, 50, 70)
    if kind == "vit":
        fixed = SynCoModel.from_pretrained(checkpoints / kind).backbone.pos_embed
        assert torch.equal(loaded.backbone.synco.backbone.pos_embed, fixed)


@pytest.mark.parametrize(("kind", "head"), [("vit", "conditional-detr"), ("swin", "detr")])
def test_detectors_begin_with_the_checkpoints_weights_train_and_load(kind, head, checkpoints, pictures, tmp_path):
    script = _example("train_detection")
    data = _boxes(tmp_path / "boxes", pictures)
    given = script.DetectionArguments(str(checkpoints / kind), str(data), head, 64, 1, 16, 5)
    _same_backbone(script.build_network(given, ["disc", "triangle"]), checkpoints / kind)
    small = f"--head {head} --size 64 --layers 1 --width 16 --queries 5"
    words = f"--model {checkpoints / kind} --data {data} --output_dir {tmp_path / 'run'} {small} {TRAINING}"
    assert script.main(words.split())["eval_loss"] > 0
    loaded = AutoModelForObjectDetection.from_pretrained(tmp_path / "run").eval()
    assert loaded.config.id2label == {0: "disc", 1: "triangle"}
    assert loaded(pixel_values=torch.zeros(1, 3, 60, 90)).pred_boxes.shape == (1, 5, 4)


def _step(network, **inputs):
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    loss = network(**inputs).loss
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss)


def test_mask2former_takes_a_step_saves_and_loads(checkpoints, tmp_path):
    backbone = AutoBackbone.from_pretrained(checkpoints / "swin", out_indices=[1, 2, 3, 4])
    config = Mask2FormerConfig(
        backbone_config=backbone.config,
        **{"feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "encoder_feedforward_dim": 32},
        **{"encoder_layers": 1, "decoder_layers": 2, "num_attention_heads": 2, "dim_feedforward": 16},
        **{"num_queries": 4, "train_num_points": 16, "num_labels": 2},
    )
    network = Mask2FormerForUniversalSegmentation(config)
    (own,) = (module for module in network.modules() if isinstance(module, SynCoBackbone))
    own.load_state_dict(backbone.state_dict())
    _same_backbone(network, checkpoints / "swin")
    masks = [(torch.arange(64)[None, None] < torch.tensor([20, 40])[:, None, None]).float().expand(2, 64, 64)] * 2
    inputs = {"pixel_values": torch.randn(2, 3, 64, 64), "mask_labels": masks}
    _step(network, **inputs, class_labels=[torch.tensor([0, 1])] * 2)
    network.save_pretrained(tmp_path)
    loaded = Mask2FormerForUniversalSegmentation.from_pretrained(tmp_path)
    with torch.no_grad():
        one, other = (each.eval()(inputs["pixel_values"]).class_queries_logits for each in (network, loaded))
    torch.testing.assert_close(one, other)


def test_deformable_detr_takes_a_step_on_a_vits_pyramid(checkpoints, tmp_path):
    backbone = AutoBackbone.from_pretrained(checkpoints / "vit", pyramid=True, out_indices=[1, 2, 3])
    config = DeformableDetrConfig(
        **{"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None},
        **{"backbone_config": backbone.config, "num_feature_levels": 3, "num_queries": 4, "d_model": 32},
        **{"encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "num_labels": 2},
        **{"encoder_attention_heads": 2, "decoder_attention_heads": 2},
    )
    network = DeformableDetrForObjectDetection(config)
    labels = [{"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.3]])}] * 2
    _step(network, pixel_values=torch.randn(2, 3, 64, 72), labels=labels)
    network.save_pretrained(tmp_path)
    loaded = DeformableDetrForObjectDetection.from_pretrained(tmp_path)
    with torch.no_grad():
        one, other = (each.eval()(torch.ones(1, 3, 64, 64)).logits for each in (network, loaded))
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("kind", ["vit", "swin"])
@pytest.mark.parametrize(
    ("config_of", "network_of"),
    [(RTDetrConfig, RTDetrForObjectDetection), (DFineConfig, DFineForObjectDetection)],
    ids=["rt-detr", "d-fine"],
)
def test_real_time_detectors_take_a_step_on_three_strides(config_of, network_of, kind, checkpoints):
    choice = {"out_indices": [2, 3, 4]} if kind == "swin" else {"pyramid": True, "out_indices": [1, 2, 3]}
    backbone = AutoBackbone.from_pretrained(checkpoints / kind, **choice)
    config = config_of(
        **{"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None, "num_labels": 2},
        **{"backbone_config": backbone.config, "feat_strides": [4, 8, 16], "num_queries": 20},
        **{"encoder_in_channels": backbone.channels, "decoder_in_channels": [32] * 3, "num_denoising": 4},
        **{"encoder_hidden_dim": 32, "d_model": 32, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16},
        **{"decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2},
    )
    labels = [{"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.3]])}] * 2
    _step(network_of(config), pixel_values=torch.randn(2, 3, 64, 96), labels=labels)


@pytest.mark.parametrize("script", ["train_segmentation", "train_detection"])
@pytest.mark.parametrize("model", ["timm:vit_tiny_patch16_224", "stock"])
def test_a_checkpoint_of_others_is_refused_with_what_makes_one_of_it(script, model, tmp_path, capsys):
    SwinModel(SwinConfig(embed_dim=8, depths=[1], num_heads=[1])).save_pretrained(tmp_path / "stock")
    model = str(tmp_path / model) if model == "stock" else model
    capsys.readouterr()  # of saving
    with pytest.raises(SystemExit):
        _example(script).main(["--model", model, "--data", str(tmp_path), "--output_dir", str(tmp_path / "run")])
    said = capsys.readouterr().err
    assert f"error: --model {model} is no checkpoint of ours: `synco-hub convert {model} --output FOLDER`" in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "run").exists()
