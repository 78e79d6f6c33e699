from pathlib import Path

import pytest

from synco_hub.data.original.split import LayoutNotFoundError, indices_of, lines_of, located, require_located


def test_the_folder_given_or_up_to_two_below(tmp_path: Path):
    (tmp_path / "a/b/c").mkdir(parents=True)
    (tmp_path / "a/b/mark").touch()
    (tmp_path / "a/b/c/deep").touch()
    for start in (tmp_path, tmp_path / "a", tmp_path / "a/b"):
        assert located(start, "mark", "c") == tmp_path / "a/b"
    assert located(tmp_path, "deep") is None
    with pytest.raises(LayoutNotFoundError, match="deep and mark of Something were not found"):
        require_located(tmp_path, "Something", "deep", "mark")


def test_lines(tmp_path: Path):
    (tmp_path / "list").write_bytes("one \r\n\r\n two\nÜ".encode())
    assert lines_of(tmp_path / "list") == ["one", "two", "Ü"]
    for content, message in ((b"\n \n", "the list is empty"), (b"\xff\xfe\x00a", "it is no text")):
        (tmp_path / "list").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            lines_of(tmp_path / "list")


def test_classes():
    assert indices_of(["b", "a", "b"], ["a", "b"], Path("x")) == [1, 0, 1]
    with pytest.raises(ValueError, match="'a' is named twice"):
        indices_of([], ["a", "b", "a"], Path("x"))
    with pytest.raises(ValueError, match=r"2 classes are not .* \(c, d\)"):
        indices_of(["c", "a", "d"], ["a", "b"], Path("x"))
