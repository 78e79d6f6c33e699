"""The generator of pictures with masks: what the mask says is where the cut-outs are."""

import numpy as np
from composed_pictures import compose, draw_cut_outs, draw_photographs, find_cut_outs, is_cut_out, write_pictures
from PIL import Image

GREY = [Image.new("RGB", (80, 60), (120, 120, 120))]


def test_the_mask_has_the_class_where_a_cut_out_lies_and_zero_where_the_photograph_shows():
    red, blue = draw_cut_outs()
    seen = set()
    for seed in range(20):
        picture, mask = compose(GREY, [red, blue], 64, np.random.default_rng(seed))
        pixels = np.asarray(picture).astype(int)
        assert picture.size == (64, 64) == mask.shape
        assert (np.ptp(pixels[mask == 0], axis=1) <= 20).mean() > 0.9  # but for soft edges
        for number, (strong, weak) in {1: (0, 2), 2: (2, 0)}.items():
            inside = pixels[mask == number]
            assert len(inside) == 0 or np.median(inside[:, strong] - inside[:, weak]) > 100
        seen |= set(np.unique(mask).tolist())
    assert seen == {0, 1, 2}


def test_a_seed_gives_the_same_pictures_and_another_one_others(tmp_path):
    for name, seed in (("one", 3), ("same", 3), ("other", 4)):
        write_pictures(tmp_path / name, "train", 3, draw_photographs(), draw_cut_outs(), 32, seed)
    contents = {
        name: [path.read_bytes() for path in sorted((tmp_path / name).rglob("*.png"))]
        for name in ("one", "same", "other")
    }
    assert len(contents["one"]) == 6
    assert contents["one"] == contents["same"] != contents["other"]


def test_what_has_no_alpha_or_is_full_is_no_cut_out(tmp_path):
    (disc,), _ = draw_cut_outs()
    (tmp_path / "things" / "inner").mkdir(parents=True)
    disc.save(tmp_path / "things" / "inner" / "disc.png")
    disc.convert("RGB").save(tmp_path / "things" / "opaque.png")
    Image.new("RGBA", (8, 8), (1, 2, 3, 255)).save(tmp_path / "things" / "full.png")
    Image.new("RGBA", (8, 8)).save(tmp_path / "things" / "empty.png")
    assert find_cut_outs(tmp_path, ["things"]) == [[tmp_path / "things" / "inner" / "disc.png"]]
    assert not is_cut_out(tmp_path / "things" / "full.png")
