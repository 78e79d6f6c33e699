import errno
import os
import tempfile
from pathlib import Path

import pytest
from command_line import invoke

from synco_hub.output_paths import check_output_file, check_output_folder, check_result_file


def test_good_places_leave_no_trace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in (Path("r.json"), Path("a/b/r.json"), tmp_path / "c" / "r.json"):
        check_result_file(path)
        check_output_folder(path, "--output-dir")
    assert not list(tmp_path.iterdir())
    (tmp_path / "old.json").write_text('{"schema_version": 0, "metrics": {}}')
    (tmp_path / "empty.json").touch()
    for name in ("old.json", "empty.json"):
        check_result_file(tmp_path / name)
    check_output_folder(tmp_path, "--output-dir")
    check_output_file(tmp_path / "f.PNG", "--figure", (".png", ".pdf"))


def test_bad_places_are_named_with_their_flag(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    (tmp_path / "conversion_report.json").write_text('{"schema_version": 1, "source": "a.pth"}')
    os.mkfifo(tmp_path / "pipe")
    for path, text in (
        (tmp_path, "is a folder"),
        (Path(), "is a folder"),
        (tmp_path / "photo.jpg", "is there and no result"),
        (tmp_path / "list.json", "is there and no result"),
        (tmp_path / "config.json", "is there and no result"),
        (tmp_path / "conversion_report.json", "is there and no result"),
        (tmp_path / "pipe", "is no ordinary file"),
        (Path("/dev/null"), "is no ordinary file"),
        (tmp_path / "photo.jpg" / "r.json", "photo.jpg is a file, so that nothing can lie in it"),
        (tmp_path / "photo.jpg" / "deep" / "r.json", "photo.jpg is a file, so that nothing can lie in it"),
    ):
        with pytest.raises(ValueError, match=text) as found:
            check_result_file(path)
        assert str(found.value).startswith(f"--output {path}")
    for path, text in ((tmp_path / "photo.jpg", "is a file"), (tmp_path / "photo.jpg" / "x", "is a file, so that")):
        with pytest.raises(ValueError, match=text):
            check_output_folder(path, "--output-dir")
    with pytest.raises(ValueError, match=r"--figure .*f\.svg: does not end in \.png or \.pdf"):
        check_output_file(tmp_path / "f.svg", "--figure", (".png", ".pdf"))


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_what_the_system_refuses_names_the_folder(tmp_path, monkeypatch, number):
    def refuse(dir):
        raise OSError(number, os.strerror(number), str(dir / "tmp1234"))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    path = tmp_path / "deep" / "r.json"
    with pytest.raises(ValueError, match=os.strerror(number)) as found:
        check_result_file(path)
    assert str(found.value).startswith(f"--output {path}: nothing can be written in {tmp_path} (")


@pytest.mark.parametrize(
    ("flags", "flag"),
    [
        (["adversarial", "--output", "FILE/x.json"], "--output"),
        (["classification", "--output", "FILE/x.json"], "--output"),
        (["discovery", "--data-dir", "d", "--output", "FILE/x.json"], "--output"),
        (["discovery", "--data-dir", "d", "--save-boxes", "FILE"], "--save-boxes"),
        (["discovery", "--data-dir", "d", "--figure", "FILE/x.png"], "--figure"),
        (["discovery", "--data-dir", "d", "--figure", "x.svg"], "--figure"),
        (["efficiency", "--output", "FILE/x.json"], "--output"),
        (["knn", "--output", "FILE/x.json"], "--output"),
        (["knn", "--save-features", "FILE/x"], "--save-features"),
        (["ood", "--in-dataset", "fractals", "--out-dataset", "d", "--output", "FILE/x.json"], "--output"),
        (["retrieval", "--data-dir", "d", "--output", "FILE/x.json"], "--output"),
        (["retrieval", "--data-dir", "d", "--save-features", "FILE/x"], "--save-features"),
        (["robustness", "--on-the-fly", "--output", "FILE/x.json"], "--output"),
        (["video-segmentation", "--data-dir", "d", "--output-dir", "FILE"], "--output-dir"),
    ],
)
def test_every_command_checks_before_it_loads_anything(tmp_path, monkeypatch, flags, flag):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").write_text("a file")
    # The model is loaded first, the data after it.
    monkeypatch.setattr("synco_hub.protocols._loaded", lambda *arguments: pytest.fail("loaded"))
    done = invoke(["evaluate", *flags, "--model", "m"])
    assert done.exit_code == 1
    assert isinstance(done.exception, ValueError)
    assert str(done.exception).startswith(f"{flag} ")
    assert [path.name for path in tmp_path.iterdir()] == ["FILE"]
