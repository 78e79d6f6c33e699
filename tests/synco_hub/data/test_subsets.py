"""Some images of a data set: by a list, by classes, spread or drawn."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from synco_hub.data import load_dataset
from synco_hub.data.image_folder import ImageFolderDataset, load_image_folder
from synco_hub.data.subsets import (
    LINES,
    URL_VARIABLE,
    draw_subset,
    hold_out,
    read_low_shot_list,
    sample_images,
    spread_subset,
    take_classes,
    take_listed_subset,
    take_low_shot_subset,
)


@pytest.fixture
def images(tmp_path: Path) -> ImageFolderDataset:
    names = [f"{'abc'[number % 3]}/n{number}.JPEG" for number in range(9)]
    for number, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (2, 2), (number, number, number)).save(tmp_path / name, "PNG")
    return ImageFolderDataset(tmp_path, names, [number % 3 for number in range(9)], ["a", "b", "c"], "train", "rule")


@pytest.mark.parametrize(
    "spell", [str, lambda name: name.split("/")[1], lambda name: name.split("/")[1][:-5] + ".jpg"]
)
def test_a_list_names_files_with_and_without_folder_and_extension(spell, images, tmp_path: Path):
    kept = [7, 1, 4]
    (tmp_path / "list.txt").write_text("\n".join(spell(images.name(index)) for index in kept))
    subset = take_listed_subset(images, tmp_path / "list.txt")
    assert [subset.name(index) for index in range(3)] == [images.name(index) for index in sorted(kept)]
    assert subset.labels.tolist() == [1, 1, 1]
    assert [subset.load_image(index).getpixel((0, 0))[0] for index in range(3)] == [1, 4, 7]
    assert subset.encoded(0) == images.encoded(1)
    assert "3 of 9 images" in subset.description.split_rule


def test_classes_in_a_new_order(images):
    subset = take_classes(images, ["c", "a"])
    assert subset.class_names == ["c", "a"]
    assert [(subset.name(index)[0], subset.labels[index]) for index in range(6)] == [("a", 1), ("c", 0)] * 3
    with pytest.raises(ValueError, match="has no z: 1 of 2 classes"):
        take_classes(images, ["a", "z"])


def test_several_classes_an_image_stay_with_it(images, tmp_path: Path):
    images.multi_hot = np.arange(27, dtype=np.float32).reshape(9, 3)
    (tmp_path / "list.txt").write_text("n8.JPEG\nn2.JPEG")
    assert (take_listed_subset(images, tmp_path / "list.txt").multi_hot == images.multi_hot[[2, 8]]).all()


def test_a_bounded_number_is_spread_over_the_images_and_their_classes(images):
    assert spread_subset(images, 9) is images
    assert spread_subset(images, 100) is images
    for count in range(1, 9):
        subset = spread_subset(images, count)
        indices = subset.indices.tolist()
        assert len(set(indices)) == len(subset) == count
        assert all(9 * part // count <= index < 9 * (part + 1) // count for part, index in enumerate(indices))
        assert indices == spread_subset(images, count).indices.tolist()
    # The classes take turns, and a stretch has three images.
    assert len(set(spread_subset(images, 3).labels.tolist())) > 1
    assert "3 of 9 images" in spread_subset(images, 3).description.split_rule
    with pytest.raises(ValueError, match="max_images=0"):
        spread_subset(images, 0)


def lines(count: int) -> bytes:
    return b"".join(b"n%08d_%d.JPEG\n" % (number % 1000, number) for number in range(count))


class Server(ThreadingHTTPServer):
    answers: dict[str, bytes]
    cut: bool = False
    asked: list[str]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        content = self.server.answers.get(self.path)
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if self.server.cut else content)

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as running:
        running.answers = {"/lists/1percent.txt": lines(12811), "/lists/10percent.txt": lines(128116)}
        running.asked = []
        threading.Thread(target=running.serve_forever, daemon=True).start()
        monkeypatch.setenv(URL_VARIABLE, f"http://127.0.0.1:{running.server_address[1]}/lists/")
        yield running
        running.shutdown()


@pytest.mark.parametrize(("percent", "count"), [(1, 12811), (10, 128116)])
def test_downloaded_once_and_whole(percent: int, count: int, server: Server, tmp_path: Path):
    path = read_low_shot_list(percent, tmp_path)
    assert path.read_bytes() == lines(count)
    assert read_low_shot_list(percent, tmp_path) == path
    assert server.asked == [f"/lists/{percent}percent.txt"]


def test_a_cut_connection_leaves_nothing_and_the_next_attempt_works(server: Server, tmp_path: Path):
    server.cut = True
    with pytest.raises(ValueError, match=r"cannot be downloaded|bytes arrived"):
        read_low_shot_list(1, tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    server.cut = False
    assert read_low_shot_list(1, tmp_path).is_file()


@pytest.mark.parametrize(
    "content", [lines(12810), lines(12812), lines(12810) * 2, b"<html>", lines(12810) + b"x.JPEG\n"]
)
def test_another_list_is_not_kept(content: bytes, server: Server, tmp_path: Path):
    server.answers["/lists/1percent.txt"] = content
    with pytest.raises(ValueError, match=r"the download: .* image names, where SimCLR's list of 1 % has 12811"):
        read_low_shot_list(1, tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_damaged_cache_is_named(server: Server, tmp_path: Path):
    path = read_low_shot_list(1, tmp_path)
    path.write_bytes(lines(5))
    with pytest.raises(ValueError, match=r"1percent.txt: 5 image names.*remove it"):
        read_low_shot_list(1, tmp_path)


def test_nothing_there_and_no_server(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    server.answers = {}
    with pytest.raises(ValueError, match=r"HTTPError.*--train-list"):
        read_low_shot_list(10, tmp_path)
    monkeypatch.setenv(URL_VARIABLE, "http://127.0.0.1:9")
    with pytest.raises(ValueError, match=rf"URLError.*{URL_VARIABLE}"):
        read_low_shot_list(10, tmp_path)
    with pytest.raises(ValueError, match="there are lists of 1 and 10 %"):
        read_low_shot_list(5, tmp_path)


@pytest.mark.network
@pytest.mark.parametrize("percent", [1, 10])
def test_the_published_lists(percent: int, tmp_path: Path):
    assert read_low_shot_list(percent, tmp_path).stat().st_size > 100_000


@pytest.fixture
def numbered(tmp_path):
    name = "fractals:num_classes=3,train_images_per_class=10,test_images_per_class=1"
    return load_dataset(name, "train", image_size=16, cache_dir=tmp_path)


def test_each_class_gives_its_share_and_the_seed_decides(numbered):
    subset = draw_subset(numbered, 0.2, seed=1)
    assert np.bincount(subset.labels).tolist() == [2, 2, 2]
    assert np.array_equal(subset.indices, draw_subset(numbered, 0.2, seed=1).indices)
    assert not np.array_equal(subset.indices, draw_subset(numbered, 0.2, seed=2).indices)
    assert len(draw_subset(numbered, 0.001, seed=1)) == 3
    assert subset.description.fingerprint != numbered.description.fingerprint
    assert "0.2 of each class drawn with seed 1, 6 of 30 images" in subset.description.split_rule
    for position, index in enumerate(subset.indices):
        assert subset.name(position) == numbered.name(int(index))
        assert subset.load_image(position).tobytes() == numbered.load_image(int(index)).tobytes()


def test_bad_fraction(numbered):
    for fraction in (0.0, 1.5):
        with pytest.raises(ValueError, match="is not in"):
            draw_subset(numbered, fraction, seed=0)


def test_a_list_must_belong_to_the_data(numbered, tmp_path):
    names = [numbered.name(index) for index in (4, 11)]
    (tmp_path / "list.txt").write_text("\n".join(names) + "\n\n")
    assert take_listed_subset(numbered, tmp_path / "list.txt").indices.tolist() == [4, 11]
    (tmp_path / "list.txt").write_text("nothing.png\n")
    with pytest.raises(ValueError, match="1 of 1 images"):
        take_listed_subset(numbered, tmp_path / "list.txt")
    (tmp_path / "list.txt").write_text("\n")
    with pytest.raises(ValueError, match="names no image"):
        take_listed_subset(numbered, tmp_path / "list.txt")


def test_a_share_is_rounded_to_the_nearest_and_at_least_one(images):
    for fraction, of_each in ((0.1, 1), (0.4, 1), (0.6, 2), (1, 3)):
        kept = draw_subset(images, fraction, 0)
        assert np.bincount(kept.labels).tolist() == [of_each] * 3


def test_which_images_a_protocol_takes(numbered, tmp_path, monkeypatch):
    assert take_low_shot_subset(numbered, None, None, 0) is numbered
    assert np.array_equal(
        take_low_shot_subset(numbered, 0.1, None, 3).indices,
        draw_subset(numbered, 0.1, 3).indices,
    )
    names = [numbered.name(index) for index in (5, 6)]
    (tmp_path / "list.txt").write_text("\n".join(names))
    assert take_low_shot_subset(numbered, None, tmp_path / "list.txt", 0).indices.tolist() == [5, 6]
    with pytest.raises(ValueError, match="give one of them"):
        take_low_shot_subset(numbered, 0.1, tmp_path / "list.txt", 0)
    # One percent of ImageNet is a published list, any other share of it a draw.
    numbered.description = replace(numbered.description, name="imagenet-1k")
    monkeypatch.setitem(LINES, 1, 3)
    (tmp_path / "imagenet_subsets").mkdir()
    (tmp_path / "imagenet_subsets/1percent.txt").write_text("".join(f"n00000001_{n}.JPEG\n" for n in (2, 9, 12)))
    monkeypatch.setattr(numbered, "file_names", lambda: [f"n00000001/n00000001_{n}.JPEG" for n in range(30)])
    assert take_low_shot_subset(numbered, 0.01, None, 0, tmp_path).indices.tolist() == [2, 9, 12]
    assert "drawn with seed" in take_low_shot_subset(numbered, 0.02, None, 0, tmp_path).description.split_rule


def test_samples_are_parts_of_larger_ones_and_keep_order_and_labels(tmp_path):
    images = load_dataset("fractals:test_images_per_class=5", "test", cache_dir=tmp_path)
    few, few_at = sample_images(images, 10, seed=3)
    more, more_at = sample_images(images, 30, seed=3)
    assert few_at == sorted(few_at)
    assert set(few_at) < set(more_at)
    assert sample_images(images, 10, seed=4)[1] != few_at
    assert few.labels.tolist() == images.labels[few_at].tolist()
    assert np.array_equal(np.array(few.load_image(4)), np.array(images.load_image(few_at[4])))
    assert few.description.fingerprint != images.description.fingerprint
    assert len(more) == 30
    for whole in (None, 50):
        assert sample_images(images, whole, seed=0) == (images, None)
    for wrong in (0, 51):
        with pytest.raises(ValueError, match=f"{wrong} images of fractals: its test split has 50"):
            sample_images(images, wrong, seed=0)


def test_a_share_held_out_is_the_drawn_test_split(tmp_path: Path):
    for name in [f"{kind}/{k}.png" for kind in "abc" for k in range(11)]:
        (tmp_path / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "train" / name).touch()
    for root in (tmp_path, tmp_path / "train"):
        images = load_image_folder(root, "pretraining")
        kept = hold_out(images, 0.2, 5)
        assert [kept.name(k) for k in range(len(kept))] == list(load_image_folder(root, "train", 5).names)
        assert "0.2 of each class held out by seed 5, 27 of 33 images" in kept.description.split_rule
        assert len(hold_out(images, 5, 5)) == 28
        assert hold_out(images, 5, 5).description != hold_out(images, 5, 6).description


def test_hold_out_leaves_images(images):
    for holdout in (0, -1, 9, 1.5, float("nan"), 100):
        with pytest.raises(ValueError, match=r"--holdout .* of 9 images: give a share between 0 and 1"):
            hold_out(images, holdout, 0)
    assert len(hold_out(images, 8, 0)) == 1
    assert len(hold_out(images, 0.99, 0)) == 3


def test_a_list_names_files_of_any_bytes(tmp_path: Path):
    names = ["a/caf\udce9.png", "a/Käfer 1.png", "a/2.png"]
    images = ImageFolderDataset(tmp_path, names, [0, 0, 0], ["a"], "train", "rule")
    (tmp_path / "list.txt").write_bytes(b"caf\xe9.png\nK\xc3\xa4fer 1.png\n")
    assert take_listed_subset(images, tmp_path / "list.txt").indices.tolist() == [0, 1]
