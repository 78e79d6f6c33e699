"""Fingerprints of pretraining images: what is written while images are read, and what can be read of it."""

import logging
import multiprocessing
import shutil

import numpy as np
import pytest
from photographs import photograph, save

from synco_hub.data import load_dataset
from synco_hub.data.pretraining_images import (
    FINGERPRINTS_FILE,
    PARTS_FOLDER,
    FingerprintRecorder,
    PretrainingData,
    PretrainingImages,
    hash_content,
    hash_pixels,
    keeps_fingerprints,
    make_fingerprint,
)
from synco_hub.settings import DatasetChoice

COUNT = 12


@pytest.fixture
def photographs(tmp_path):
    for number in range(COUNT):
        save(tmp_path / "photographs", f"schön/{number:02d}.png", photograph(number, 40, 48))
    return tmp_path / "photographs"


@pytest.fixture
def images(photographs):
    return load_dataset(str(photographs), "pretraining")


@pytest.fixture
def recorder(tmp_path, photographs, images):
    (tmp_path / "run").mkdir()
    recorder = FingerprintRecorder(tmp_path / "run")
    recorder.begin(PretrainingData.of(images, DatasetChoice(str(photographs)), None, None, False), False)
    return recorder


def note(recorder, images, indices, epoch=0):
    for index in indices:
        recorder.note(epoch, index, images.load_pixels(index))


def expected(images, indices):
    return {index: int.from_bytes(hash_pixels(images.load_pixels(index))[:8], "little") for index in indices}


def read(folder):
    found = PretrainingImages.read(folder)
    return None if found is None else dict(zip(found.indices.tolist(), found.hashes.tolist(), strict=True))


def test_a_hash_is_that_of_all_pixels_and_of_the_shape():
    pixels = photograph(0, 24, 36)
    hashes = {hash_pixels(pixels)}
    for place in range(0, pixels.size, 97):
        changed = pixels.copy()
        changed.reshape(-1)[place] ^= 1
        hashes.add(hash_pixels(changed))
    assert len(hashes) == 1 + len(range(0, pixels.size, 97))
    assert hash_pixels(pixels) == hash_pixels(np.asfortranarray(pixels))
    assert hash_pixels(pixels) != hash_pixels(pixels.reshape(36, 24, 3))
    assert hash_content(b"a") != hash_content(b"b")


def test_a_million_images_are_a_few_ten_megabytes():
    stored = make_fingerprint(0, photograph(0)).itemsize - 8  # all images in their order: their positions are not kept
    assert 1_281_167 * stored < 52e6


def test_processes_write_side_by_side_and_one_file_comes_of_it(recorder, images, tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=note, args=(recorder, images, range(part, COUNT, 3))) for part in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    note(recorder, images, [0, 1])  # twice is once
    note(recorder, images, [0], epoch=1)
    assert keeps_fingerprints(tmp_path / "run")
    assert read(tmp_path / "run") == expected(images, range(COUNT))
    recorder.finish(None)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [FINGERPRINTS_FILE]
    assert read(tmp_path / "run") == expected(images, range(COUNT))


def test_a_killed_run_leaves_what_it_had_and_a_resumed_one_adds_to_it(recorder, images, tmp_path):
    note(recorder, images, range(5))
    part = next((tmp_path / "run" / PARTS_FOLDER).glob("*.part"))
    part.write_bytes(part.read_bytes()[:-7])
    assert read(tmp_path / "run") == expected(images, range(4))
    about = PretrainingImages.read(tmp_path / "run").data
    resumed = FingerprintRecorder(tmp_path / "run")
    resumed.begin(about, True)
    note(resumed, images, range(4, 9))
    resumed.finish(None)
    assert read(tmp_path / "run") == expected(images, range(9))
    again = FingerprintRecorder(tmp_path / "run")
    again.begin(about, True)
    again.finish(images)  # the few that no full batch took
    assert read(tmp_path / "run") == expected(images, range(COUNT))
    another = FingerprintRecorder(tmp_path / "run")
    another.begin(about, False)
    assert read(tmp_path / "run") is None


def test_unreadable_images_are_missing(recorder, images, photographs, tmp_path):
    (photographs / "schön/03.png").write_bytes(b"nothing")
    note(recorder, images, range(3))
    recorder.finish(images)
    assert read(tmp_path / "run") == expected(images, [index for index in range(COUNT) if index != 3])


def test_a_full_disk_costs_one_line(recorder, images, tmp_path, caplog):
    class Full:
        def write(self, _):
            raise OSError(28, "No space left on device")

    note(recorder, images, [0])
    recorder._file = Full()
    with caplog.at_level(logging.WARNING):
        note(recorder, images, range(1, 6))
    assert [record.getMessage() for record in caplog.records] == [
        "fingerprints of the pretraining images are not kept any more: [Errno 28] No space left on device"
    ]
    assert read(tmp_path / "run") == expected(images, [0])


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"nothing"])
def test_a_damaged_file_is_said_in_one_line(content, tmp_path):
    (tmp_path / FINGERPRINTS_FILE).write_bytes(content)
    with pytest.raises(ValueError, match="fingerprints of its pretraining images are damaged") as error:
        PretrainingImages.read(tmp_path)
    assert "\n" not in str(error.value)
    assert read(tmp_path / "nowhere") is None


def test_the_images_are_opened_again_from_another_folder_if_they_are_the_same(
    photographs, images, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    data = PretrainingData.of(images, DatasetChoice("photographs"), None, None, False)
    monkeypatch.chdir("/")
    assert hash_pixels(data.open().load_pixels(2)) == hash_pixels(images.load_pixels(2))
    fractals = DatasetChoice("fractals:num_classes=2,train_images_per_class=3,test_images_per_class=1")
    drawn = load_dataset(fractals, "pretraining", image_size=32, cache_dir=tmp_path)
    assert (
        PretrainingData.of(drawn, fractals, None, 32, False)
        .open()
        .description.is_same_data(drawn.description.fingerprint)
    )
    save(photographs, "schön/more.png", photograph(99, 40, 48))
    assert data.open() is None
    shutil.rmtree(photographs)
    assert data.open() is None
    assert PretrainingData.of(images, DatasetChoice("somebody/photographs"), None, None, False).open() is None
