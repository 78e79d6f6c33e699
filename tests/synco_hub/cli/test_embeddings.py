import numpy as np
import torch
from command_line import invoke
from PIL import Image

from synco_hub import Embeddings
from synco_hub.cli.embeddings import embed, find_similar  # noqa: F401 - the commands below call them
from synco_hub.models import SynCoConfig, SynCoModel, image_processor


def test_the_command_writes_the_table_and_says_what_it_holds(tmp_path):
    torch.manual_seed(0)
    SynCoModel(SynCoConfig("vit-nano")).save_pretrained(tmp_path / "model")
    image_processor(32).save_pretrained(tmp_path / "model")
    (tmp_path / "pictures").mkdir()
    for number in range(3):
        Image.effect_noise((50, 40), 60).convert("RGB").save(tmp_path / "pictures" / f"{number}.png")
    output = tmp_path / "out.parquet"
    flags = ["--model", str(tmp_path / "model"), "--dataset", str(tmp_path / "pictures"), "--num-workers", "0"]
    ended = invoke(["embed", *flags, "--output", str(output), "--dtype", "float16"])
    assert ended.exit_code == 0, ended.exception
    assert ended.output.strip() == f"wrote {output}: 3 images, file_name, split, embedding"
    assert np.isfinite(Embeddings.read(output).vectors).all()
    refused = invoke(["embed", *flags, "--output", str(tmp_path / "x.parquet"), "--plot", str(tmp_path / "map.png")])
    assert "give an .html file" in str(refused.exception)
    drawn = invoke(["embed", *flags, "--output", str(tmp_path / "y.parquet"), "--plot", str(tmp_path / "map.html")])
    assert drawn.output.splitlines()[-1] == f"wrote {tmp_path / 'map.html'}"
    picture = str(tmp_path / "pictures" / "1.png")
    places = ["--output", str(tmp_path / "found.csv"), "--figure", str(tmp_path / "found.png")]
    ended = invoke(["search", picture, "--in", str(output), "--count", "2", *places])
    assert ended.exit_code == 0, ended.exception
    assert ended.output.splitlines()[1] == "   1.000  1.png  (train)"
    lines = (tmp_path / "found.csv").read_text().splitlines()
    assert lines[0] == "query,rank,file_name,split,label,similarity,row"
    assert len(lines) == 3
    assert Image.open(tmp_path / "found.png").width > 100
