"""Files that no project writes: each is refused in one printable line, quickly, and nothing is left behind."""

import json
import random

import pytest
import torch
from foreign_checkpoints import AUTHORS_CONFIG, moby_like, names_of, swin, vit, yacs
from safetensors.torch import save_file

from synco_hub.hub.conversion.convert import ConversionSettings, convert
from synco_hub.hub.conversion.recognition import recognise
from synco_hub.hub.conversion.source import open_source
from synco_hub.hub.conversion.tensor_names import map_to_timm_names

SMALL = vit(64, 1, 1, sincos=False)


def refused(tmp_path, content, settings=None) -> str:
    if not isinstance(content, bytes):
        torch.save(content, tmp_path / "file.pth")
    else:
        (tmp_path / "file.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r".") as error:
        convert(str(tmp_path / "file.pth"), tmp_path / "out", settings)
    assert [path.name for path in tmp_path.iterdir()] == ["file.pth"]
    message = str(error.value)
    assert message.isprintable()
    assert len(message) < 3000
    return message


@pytest.mark.parametrize("key", [3, None, b"k", ("a",), 1.5])
def test_keys_that_are_no_text(tmp_path, key):
    assert "keys that are no text" in refused(tmp_path, {key: torch.zeros(1), "model": names_of(SMALL)})
    assert "are no tensors" in refused(tmp_path, {"model": names_of(SMALL) | {key: torch.zeros(1)}})


@pytest.mark.parametrize("name", ["\x1b[2J\x1b[31mall is well", "line\nbreak", "k" * 100_000])
def test_names_that_would_write_on_the_terminal(tmp_path, name):
    state = moby_like(SMALL, SMALL, yacs(AUTHORS_CONFIG))
    for content in (
        {"model": state["model"] | {name: torch.zeros(1)}},
        {"model": state["model"] | {f"encoder.{name}": torch.zeros(1)}},
        {name: 3},
        {"model": names_of(SMALL) | {name: 3}},
    ):
        message = refused(tmp_path, content, ConversionSettings(layout="moby"))
        assert name[:8] in message or "\\x1b[2J" in message or "line\\nbreak" in message


@pytest.mark.parametrize("config", [3, [], {"MODEL": 3}, {"MODEL": {"TYPE": [1]}}, {"MODEL": {"ENCODER": b"x"}}])
def test_a_configuration_of_other_kinds_is_no_reason_to_stop(tmp_path, config):
    torch.save(moby_like(SMALL, SMALL, queue_size=8, pointer=3) | {"config": config}, tmp_path / "file.pth")
    settings = ConversionSettings(layout="moby")
    assert convert(str(tmp_path / "file.pth"), tmp_path / "out", settings).heads["num_heads"] == 1


def test_a_configuration_that_holds_itself_and_heads_that_are_no_numbers(tmp_path):
    config = {"MODEL": {"TYPE": "moby", "VIT": {"NUM_HEADS": torch.zeros(2)}}}
    config["MODEL"]["whole"] = config
    torch.save(moby_like(SMALL, SMALL, queue_size=8, pointer=3) | {"config": config}, tmp_path / "file.pth")
    report = convert(str(tmp_path / "file.pth"), tmp_path / "out")
    assert report.heads["recorded"].startswith("tensor(")


def test_position_embeddings_and_masks_of_no_size(tmp_path):
    for shape in ((1, 1, 64), (1, 1, 4), (0, 5, 64), (1, 0, 64), (64,), ()):
        state = names_of(SMALL) | {"pos_embed": torch.zeros(shape)}
        refused(tmp_path, {"model": state}, ConversionSettings(layout="timm"))
        assert recognise(open_source(str(tmp_path / "file.pth"))).name == "timm"
    assert map_to_timm_names({"layers.0.blocks.1.attn_mask": torch.tensor(1.0)}).grid is None


def test_an_image_size_that_nobody_could_check(tmp_path):
    network = swin(depths=(1,), num_heads=(2,), embed_dim=24)
    torch.save(names_of(network), tmp_path / "file.pth")
    message = refused(tmp_path, names_of(network) | {"layers.0.blocks.0.attn_mask": torch.zeros(10**6, 16, 0)})
    assert "do not fit" in message or "image_size" in message


@pytest.mark.parametrize("old_format", [False, True])
def test_flipped_bytes_are_refused_or_change_nothing_that_matters(tmp_path, old_format):
    """What is read without an error is tensors and plain data, whatever the bytes say."""
    content = moby_like(SMALL, SMALL, yacs(AUTHORS_CONFIG), queue_size=8, pointer=3)
    torch.save(content, tmp_path / "file.pth", _use_new_zipfile_serialization=not old_format)
    whole = (tmp_path / "file.pth").read_bytes()
    generator = random.Random(7)
    start = 0 if old_format else whole.find(b"data.pkl")
    places = [generator.randrange(start, start + 5000) for _ in range(40)]
    # The directory of a zip file lies at its end.
    places += [len(whole) - 1 - generator.randrange(4000) for _ in range(40)]
    messages = []
    for place in places:
        changed = bytearray(whole)
        changed[place] = generator.randrange(256)
        (tmp_path / "file.pth").write_bytes(changed)
        try:
            source = open_source(str(tmp_path / "file.pth"))
            recognise(source)
        except ValueError as error:
            messages.append(str(error))
    assert len(messages) > 5
    assert all(message.isprintable() for message in messages)


@pytest.mark.parametrize(("place", "value", "what"), [(6, 200, "version"), (16, 2, "disk")])
def test_zip_files_of_other_kinds_are_damaged_ones(tmp_path, place, value, what):
    torch.save({"model": names_of(SMALL)}, tmp_path / "file.pth")
    data = bytearray((tmp_path / "file.pth").read_bytes())
    # An entry of the directory at the end says which version reads it, the record behind it on how many disks it is.
    record = data.rfind(b"PK\x01\x02") if what == "version" else data.rfind(b"PK\x06\x07")
    data[record + place] = value
    assert "file.pth" in refused(tmp_path, bytes(data))


def test_a_strangers_metadata_sets_nothing_but_the_network(tmp_path):
    for values, message in (
        ({"backbone": "vit-nano", "_attn_implementation": "somebody/kernel"}, "unknown fields"),
        ({"backbone": "vit-nano", "depth": "three"}, "depth='three' is neither a whole number"),
        ({"backbone": "vit-nano", "depth": 100_000}, "depth=100000 needs more weights than the 1 tensors"),
        ({"backbone": "swin-nano", "depth": [1] * 2000, "num_heads": [1] * 2000}, "needs more weights than the 1"),
        ({"backbone": "vit-nano", "depth": 1, "embed_dim": 3 * 10**6}, r"\(1, 1, 96\) instead of \(1, 1, 3000000\)"),
        ({"backbone": "vit-nano", "depth": 1, "embed_dim": 3 * 10**15}, "no network of this configuration can be"),
        ({"backbone": "vit-nano", "depth": 1, "image_size": 8 * 10**9}, "do not fit|no network of this"),
        ({"backbone": "vit-nano", "depth": 1, "image_size": 10**400}, "impossible|can be built|do not fit"),
        ({"backbone": "vit-nano", "depth": 1, "id2label": {"one": "cat"}}, "id2label is no map of class numbers"),
        ({"backbone": "vit-nano", "depth": 1, "id2label": ["cat"]}, "id2label is no map of class numbers"),
    ):
        save_file(
            {"cls_token": torch.zeros(1, 1, 96)}, tmp_path / "x.safetensors", {"synco_config": json.dumps(values)}
        )
        with pytest.raises(ValueError, match=message):
            convert(str(tmp_path / "x.safetensors"), tmp_path / "out")
