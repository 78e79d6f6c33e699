"""A map of a table of embeddings: two dimensions, coloured by class, with the pictures on hover, as one HTML file.

Two dimensions of hundreds show little of what is near what: it is a picture to look around in, not evidence.
"""

from __future__ import annotations

import base64
import colorsys
import html
import importlib
import io
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from synco_hub.atomic_write import atomic_write
from synco_hub.data.decoding import UnreadableImageError
from synco_hub.embedding_tables import Embeddings
from synco_hub.search import open_images

Projection = Literal["pca", "umap"]
MOST_POINTS = 2000
_SIDE, _QUALITY = 72, 70
_GREY = "#777777"


def write_map(
    table: Embeddings, path: Path, projection: Projection = "pca", most: int = MOST_POINTS, seed: int = 0
) -> Path:
    """Write the map of a table, or of so many rows of it, drawn by the seed.

    Raises:
        ValueError: If the table holds patches, or fewer than three images.
        ImportError: If `umap` is asked for and not installed.
    """
    if table.vectors.ndim != 2 or len(table.vectors) < 3:
        raise ValueError(
            "a map needs one vector of each of three images or more: embed more images, without --what patches"
        )
    places = project(table.vectors, projection, seed)
    rows = np.arange(len(places))
    if len(rows) > most:
        rows = np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))
    opened = open_images(table)
    points: list[dict[str, Any]] = []
    for row in rows.tolist():
        label = -1 if table.labels is None else int(table.labels[row])
        name, split = table.file_names[row], table.splits[row]
        points.append(
            {
                "x": round(float(places[row, 0]), 4),
                "y": round(float(places[row, 1]), 4),
                "label": label,
                "words": ", ".join(filter(None, (name, split, table.class_names[label] if label >= 0 else ""))),
                "image": _thumbnail(opened.get((split, name))),
            }
        )
    about = _describe(table, projection, len(points))
    labels = sorted({point["label"] for point in points})
    colours = {label: _colour(label, len(table.class_names)) for label in labels}
    legend = [[table.class_names[label] if label >= 0 else "no class", colours[label], label] for label in labels]
    # A name must not end the script it stands in.
    data = json.dumps({"points": points, "legend": legend}, ensure_ascii=False).replace("</", "<\\/")
    with atomic_write(path) as unfinished:
        page = _PAGE.replace("ABOUT", html.escape(about)).replace("DATA", data)
        unfinished.write_text(page, encoding="utf-8")
    return path


def project(
    vectors: npt.NDArray[np.float32], projection: Projection = "pca", seed: int = 0
) -> npt.NDArray[np.float64]:
    """Two dimensions of vectors: the first principal components, or UMAP's.

    Returns:
        From -1 to 1 in the wider direction. Shape: (num_images, 2).
    """
    if projection == "umap":
        try:
            umap: Any = importlib.import_module("umap")
        except ImportError:
            raise ImportError("--projection umap needs umap-learn: pip install umap-learn, or leave it out") from None
        found = np.asarray(umap.UMAP(n_components=2, random_state=seed, metric="cosine").fit_transform(vectors))
    else:
        centred = vectors - vectors.mean(axis=0, dtype=np.float64)
        _, axes = np.linalg.eigh(centred.T @ centred)
        axes = axes[:, ::-1][:, :2]
        # Linear algebra leaves the sign open: the largest entry of an axis is positive.
        axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), range(axes.shape[1])])
        found = centred @ axes
    found = found - (found.max(axis=0) + found.min(axis=0)) / 2
    return np.asarray(found / (np.abs(found).max() or 1.0), dtype=np.float64)


def _describe(table: Embeddings, projection: str, shown: int) -> str:
    kind = "the first two principal components" if projection == "pca" else "UMAP (cosine)"
    names = ", ".join(dict.fromkeys(each["name"] for each in table.facts["datasets"]))
    return f"{shown:,} of {len(table.vectors):,} images of {names}; {table.facts['model']['name']}; {kind}"


def _colour(label: int, count: int) -> str:
    """Hues around the circle; neighbours differ in lightness too."""
    if label < 0:
        return _GREY
    red, green, blue = colorsys.hls_to_rgb(label / max(count, 1), (0.38, 0.5, 0.62)[label % 3], 0.7)
    return f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"


def _thumbnail(open_image: Any) -> str:
    """A small JPEG as an address; "" for an image that is not there any more."""
    try:
        picture: Image.Image = open_image().convert("RGB")
    except (TypeError, OSError, UnreadableImageError):
        return ""
    picture.thumbnail((_SIDE, _SIDE))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Map of embeddings</title>
<style>
body { margin: 1rem; font: 15px/1.4 sans-serif; color: #222; background: #fff }
#map { width: 100%; max-width: 60rem; touch-action: manipulation; border: 1px solid #888 }
#legend label { display: inline-block; margin-right: 1rem } #shown { min-height: 6.5rem; display: flex; gap: 1rem }
i { display: inline-block; width: .8em; height: .8em; border-radius: 50%; margin: 0 .3em }
</style></head><body>
<h1 style="font-size:1.2rem">Map of embeddings</h1><p>ABOUT. A picture to look around in, not evidence.</p>
<div id="legend"></div><canvas id="map" tabindex="0" role="img"
aria-label="Points of images; arrow keys go from one to the next"></canvas><div id="shown" aria-live="polite"></div>
<script type="application/json" id="data">DATA</script>
<script>
const {points, legend} = JSON.parse(document.getElementById("data").textContent);
const map = document.getElementById("map"), shown = document.getElementById("shown");
const colour = new Map(legend.map(([, c, l]) => [l, c])), hidden = new Set();
let chosen = -1, w = 0, h = 0;
const at = p => [(p.x + 1.05) / 2.1 * w, (1.05 - p.y) / 2.1 * h];
function draw() {
  const scale = window.devicePixelRatio || 1;
  w = map.clientWidth; h = Math.min(w, 640); map.style.height = h + "px";
  map.width = w * scale; map.height = h * scale;
  const c = map.getContext("2d"); c.scale(scale, scale);
  points.forEach((p, k) => {
    if (hidden.has(p.label)) return;
    const [x, y] = at(p); c.beginPath(); c.arc(x, y, k === chosen ? 7 : 4, 0, 7);
    c.fillStyle = colour.get(p.label); c.globalAlpha = k === chosen ? 1 : .75; c.fill();
    if (k === chosen) { c.strokeStyle = "#000"; c.lineWidth = 2; c.stroke(); }
  });
}
function show(k) {
  chosen = k; shown.replaceChildren();
  if (k >= 0) {
    if (points[k].image) {
      const picture = new Image(); picture.src = points[k].image; picture.alt = points[k].words; shown.append(picture);
    }
    const words = document.createElement("p"); words.textContent = points[k].words; shown.append(words);
  }
  draw();
}
map.addEventListener("pointermove", e => {
  let best = -1, least = 144;
  points.forEach((p, k) => {
    if (hidden.has(p.label)) return;
    const [x, y] = at(p), d = (x - e.offsetX) ** 2 + (y - e.offsetY) ** 2;
    if (d < least) { least = d; best = k; }
  });
  if (best !== chosen) show(best);
});
map.addEventListener("keydown", e => {
  const way = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[e.key];
  if (!way) return;
  e.preventDefault();
  for (let n = 1; n <= points.length; n++) {
    const k = (Math.max(chosen, way < 0 ? 0 : -1) + way * n + points.length * 2) % points.length;
    if (!hidden.has(points[k].label)) { show(k); break; }
  }
});
legend.forEach(([name, c, label]) => {
  const [entry, box, dot] = ["label", "input", "i"].map(kind => document.createElement(kind));
  box.type = "checkbox"; box.checked = true; dot.style.background = c;
  box.addEventListener("change", () => { box.checked ? hidden.delete(label) : hidden.add(label); show(-1); });
  entry.append(box, dot, name); document.getElementById("legend").append(entry);
});
window.addEventListener("resize", draw); draw();
</script></body></html>
"""
