"""Panels escape every text and hold the very picture."""

import base64
import html
import io
import re

import numpy as np
from PIL import Image

from space_app.panels import Panel, as_image, choice_html, message_html, panels_html


def test_texts_are_escaped_and_pictures_have_alternative_texts():
    nasty = '<script>alert("1")</script>'
    page = panels_html([Panel(nasty, np.zeros((8, 8, 3), np.float32), nasty), Panel("b", None, nasty)])
    assert "<script" not in page + message_html(nasty)
    (alternative,) = re.findall(r'alt="([^"]*)"', page)
    assert html.unescape(alternative) == f"{nasty}: {nasty}"
    assert page.count("<figure") == 2
    assert "clickable" not in page
    assert "clickable" in panels_html([], clickable=True)


def test_the_picture_survives_encoding():
    ramp = np.broadcast_to(np.linspace(-0.1, 1.1, 64, dtype=np.float32)[None, :, None], (64, 64, 3))
    assert np.asarray(as_image(ramp))[0, [0, -1], 0].tolist() == [0, 255]
    (data,) = re.findall(r"base64,([^\"]*)", panels_html([Panel("a", ramp, "b")]))
    seen = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")) / 255
    assert np.abs(seen - ramp.clip(0, 1)).mean() < 0.02


def test_what_is_no_picture_says_what_it_is():
    page = panels_html(
        [Panel("a", None, "loading", "waiting"), Panel("b", None, "see there"), Panel("c", None, "no", "problem")]
    )
    assert re.findall(r'<figure class="(\w+)" role="(\w+)">', page) == [
        ("waiting", "status"),
        ("hint", "status"),
        ("problem", "alert"),
    ]
    assert page.count('class="blank"') == 1
    assert 'role="alert"' in message_html("no", problem=True)
    assert 'role="status"' in message_html("yes")


def test_examples_are_buttons_with_names(tmp_path):
    colours = {'a "red" one': (255, 0, 0), "blue": (0, 0, 255)}
    paths = {}
    for number, (name, colour) in enumerate(colours.items()):
        paths[name] = tmp_path / f"{number}.png"
        Image.new("RGB", (300, 200), colour).save(paths[name])
    page = choice_html(paths)
    names = re.findall(r'<button type="button" data-name="([^"]*)"><img src="[^"]*" alt="([^"]*)"', page)
    assert [(html.unescape(name), html.unescape(words)) for name, words in names] == [(name, name) for name in colours]
    for data, colour in zip(re.findall(r"base64,([^\"]*)", page), colours.values(), strict=True):
        small = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
        assert max(small.size) <= 128
        assert np.abs(np.asarray(small).mean(axis=(0, 1)) - colour).max() < 6
