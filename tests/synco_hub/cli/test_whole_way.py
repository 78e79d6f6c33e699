"""Authors' file → checkpoint → stock model → Hub → short name → attention, by the commands that a user types."""

import json

import numpy as np
import pytest
import torch
from command_line import invoke
from foreign_checkpoints import AUTHORS_CONFIG, moby_like, vit, yacs
from PIL import Image
from transformers import AutoModel, ViTModel

from synco_hub.hub import pull as pulling
from synco_hub.hub.publication import publish as publishing

NAME, REPO = "synco-v2-deit-s", "tester/converted-deit-s"


@pytest.mark.timeout(300)
def test_from_the_authors_file_to_a_figure_by_short_name(hub, hub_api, tmp_path, monkeypatch):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for module in (publishing, pulling):
        monkeypatch.setattr(module, "HfApi", lambda: hub_api)

    def command(*arguments: str) -> str:
        done = invoke(arguments)
        assert done.exit_code == 0, (arguments, done.output, done.exception)
        return done.output

    torch.manual_seed(0)
    online, target = (vit(depth=12, img_size=224, seed=seed) for seed in (1, 2))
    torch.save(moby_like(online, target, yacs(AUTHORS_CONFIG)), "authors.pth")
    image = np.random.default_rng(0).integers(0, 256, (300, 260, 3), dtype=np.uint8)
    Image.fromarray(image).save("image.png")

    assert "heads: 12" in command("convert", "authors.pth", "--output", "converted")
    command("export", "converted", "--format", "transformers", "--output", "stock")
    command("card", "converted", "--facts", NAME, "--name", REPO)
    assert "published" in command("publish", "converted", "--repo-id", REPO, "--yes")
    assert NAME in command("pull", NAME, "--from", REPO)
    command("attention", "--model", NAME, "--image", "image.png", "--output", "attention.png")

    # The same features at the beginning, in the stock model, and at the end.
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = online.forward_head(online.forward_features(pixels), pre_logits=True)
        stock = ViTModel.from_pretrained("stock", add_pooling_layer=False).eval()(pixels).last_hidden_state[:, 0]
        pulled = AutoModel.from_pretrained(NAME).eval()(pixels).pooler_output
    torch.testing.assert_close(pulled, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(stock, expected, atol=1e-5, rtol=0)
    figure = np.asarray(Image.open("attention.png").convert("L"), dtype=float)
    assert figure.std() > 10
    row = next(row for row in json.loads(command("list", "--json")) if row["name"] == NAME)
    assert (row["source"], row["revision"]) == (REPO, hub_api.model_info(REPO).sha)
    card = hub.files(REPO)["README.md"].decode()
    assert "license_name: mit-in-licence-file-cc-by-nc-4.0-in-readme" in card
    assert "| heads.num_heads | 12 |" in card
