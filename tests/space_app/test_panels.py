"""Panels escape every text and hold the very picture; what the page's words promise is what the app does."""

import base64
import html
import io
import re

import numpy as np
from PIL import Image

from space_app import app
from space_app.panels import (
    ABOUT_TEXT,
    INTRODUCTION,
    SHIPPED_NOTICE,
    Panel,
    render_examples,
    render_message,
    render_panels,
    to_image,
)
from space_app.typed_models import _HUB_ID
from space_app.uploads import LARGEST_UPLOAD_BYTES
from synco_hub.cli.main import COMMANDS


def test_texts_are_escaped_and_pictures_have_alternative_texts():
    nasty = '<script>alert("1")</script>'
    page = render_panels([Panel(nasty, np.zeros((8, 8, 3), np.float32), nasty), Panel("b", None, nasty)])
    assert "<script" not in page + render_message(nasty)
    (alternative,) = re.findall(r'alt="([^"]*)"', page)
    assert html.unescape(alternative) == f"{nasty}: {nasty}"
    assert page.count("<figure") == 2
    assert "clickable" not in page
    assert "clickable" in render_panels([], clickable=True)


def test_the_picture_survives_encoding():
    ramp = np.broadcast_to(np.linspace(-0.1, 1.1, 64, dtype=np.float32)[None, :, None], (64, 64, 3))
    assert np.asarray(to_image(ramp))[0, [0, -1], 0].tolist() == [0, 255]
    (data,) = re.findall(r"base64,([^\"]*)", render_panels([Panel("a", ramp, "b")]))
    seen = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")) / 255
    assert np.abs(seen - ramp.clip(0, 1)).mean() < 0.02


def test_what_is_no_picture_says_what_it_is():
    page = render_panels(
        [Panel("a", None, "loading", "waiting"), Panel("b", None, "see there"), Panel("c", None, "no", "problem")]
    )
    assert re.findall(r'<figure class="(\w+)" role="(\w+)">', page) == [
        ("waiting", "status"),
        ("hint", "status"),
        ("problem", "alert"),
    ]
    assert page.count('class="blank"') == 1
    assert 'role="alert"' in render_message("no", problem=True)
    assert 'role="status"' in render_message("yes")


def test_examples_are_buttons_with_names(tmp_path):
    colours = {'a "red" one': (255, 0, 0), "blue": (0, 0, 255)}
    paths = {}
    for number, (name, colour) in enumerate(colours.items()):
        paths[name] = tmp_path / f"{number}.png"
        Image.new("RGB", (300, 200), colour).save(paths[name])
    page = render_examples(paths)
    names = re.findall(r'<button type="button" data-name="([^"]*)"><img src="[^"]*" alt="([^"]*)"', page)
    assert [(html.unescape(name), html.unescape(words)) for name, words in names] == [(name, name) for name in colours]
    for data, colour in zip(re.findall(r"base64,([^\"]*)", page), colours.values(), strict=True):
        small = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
        assert max(small.size) <= 128
        assert np.abs(np.asarray(small).mean(axis=(0, 1)) - colour).max() < 6


def test_the_promises_about_pictures_are_the_settings():
    assert "deleted after ten minutes" in ABOUT_TEXT
    assert app._KEPT_SECONDS == 10 * 60
    assert "Uploads end at 20 MB" in ABOUT_TEXT
    assert LARGEST_UPLOAD_BYTES == 20 * 1024**2


def test_method_licence_and_limits_are_there():
    for heading in ("Method", "What the maps mean", "Limits", "Your pictures", "Licence"):
        assert f"### {heading}" in ABOUT_TEXT
    assert ABOUT_TEXT.count("Apache-2.0") == 1
    assert "SynCo-v2" in INTRODUCTION


def test_the_way_to_a_trained_model_exists():
    names = set(COMMANDS)
    for command in ("pretrain", "space"):
        assert f"`synco-hub {command}" in SHIPPED_NOTICE
        assert command in names
    assert _HUB_ID.fullmatch(SHIPPED_NOTICE.split("such as `")[1].split("`")[0])
