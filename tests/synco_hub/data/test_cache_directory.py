from pathlib import Path

import pytest

from synco_hub.data.cache_directory import data_cache_directory


def test_the_first_place_that_is_named_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SYNCO_HUB_HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert data_cache_directory() == tmp_path / "home/.cache/synco_hub/data"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert data_cache_directory() == tmp_path / "xdg/synco_hub/data"
    monkeypatch.setenv("SYNCO_HUB_HOME", "~/hub")
    assert data_cache_directory() == tmp_path / "home/hub/data"
    assert data_cache_directory(tmp_path / "given") == tmp_path / "given"
    assert not (tmp_path / "given").exists()
