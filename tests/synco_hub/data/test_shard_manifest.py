import json
from pathlib import Path

import pytest

from synco_hub.data.shard_manifest import MANIFEST, Shard, ShardManifest, require_complete


def test_saved_and_loaded(tmp_path: Path):
    assert ShardManifest.load(tmp_path) is None
    manifest = ShardManifest(
        {"train": {"name": "x"}}, {"shard_bytes": 5}, {"train": [Shard("a.parquet", 7, 5, (2, 6))]}
    )
    manifest.save(tmp_path)
    assert ShardManifest.load(tmp_path) == manifest


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", json.dumps({"format": 2}), json.dumps({"format": 1, "shards": {}, "other": 1})],
)
def test_damaged(content: str, tmp_path: Path):
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(ValueError, match="not a manifest of prepared shards"):
        ShardManifest.load(tmp_path)


def test_only_a_whole_preparation_is_read(tmp_path: Path):
    require_complete(tmp_path)
    manifest = ShardManifest({}, {}, {"train": [Shard("a.parquet", 1, 1)]})
    manifest.save(tmp_path)
    (tmp_path / "a.parquet").touch()
    with pytest.raises(ValueError, match="its preparation was stopped; run the same"):
        require_complete(tmp_path)
    manifest.complete = True
    manifest.save(tmp_path)
    require_complete(tmp_path)
    (tmp_path / "a.parquet").unlink()
    with pytest.raises(ValueError, match=r"a\.parquet is missing"):
        require_complete(tmp_path)
