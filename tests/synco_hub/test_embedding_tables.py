import numpy as np
import pyarrow as pa
import pytest
from datasets import Features, Sequence, Value
from pyarrow import parquet

from synco_hub.embedding_tables import Embeddings, format_end, join_parts


def parts_of(values, folder):
    """Three parts, the second without a row."""
    folder.mkdir()
    columns = {"file_name": Value("string"), "split": Value("string")}
    schema = Features({**columns, "embedding": Sequence(Value("float32"), length=values.shape[1])}).arrow_schema
    files = []
    for number, part in enumerate((values[:4], values[:0], values[4:])):
        names = [f"{number}-{k}.png" for k in range(len(part))]
        arrays = [names, ["train"] * len(part), pa.FixedSizeListArray.from_arrays(part.ravel(), values.shape[1])]
        files.append(folder / f"part-{number}.parquet")
        parquet.write_table(pa.table(arrays, schema=schema), files[-1])
    return files


@pytest.mark.parametrize("name", ["whole.parquet", "folder", "array.npy"])
def test_parts_are_one_table_in_their_order(name, tmp_path):
    values = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    folder, output = tmp_path / "parts", tmp_path / name
    join_parts(parts_of(values, folder), {"model": {"name": "m"}}, folder, output)
    assert not folder.exists()
    if output.suffix == ".npy":
        np.testing.assert_array_equal(np.load(output), values)
        assert len(output.with_suffix(".csv").read_text().splitlines()) == 8
        assert format_end(output) == f"wrote {output} (7, 5) and {output.with_suffix('.csv')}"
        return
    found = Embeddings.read(output)
    np.testing.assert_array_equal(found.vectors, values)
    assert found.file_names == [f"0-{k}.png" for k in range(4)] + [f"2-{k}.png" for k in range(3)]
    assert format_end(output) == f"wrote {output}: 7 images, file_name, split, embedding"


def test_a_folder_of_two_models_is_refused(tmp_path):
    values = np.ones((6, 3), dtype=np.float32)
    (tmp_path / "both").mkdir()
    for model in "ab":
        folder = tmp_path / model
        join_parts(parts_of(values, folder), {"model": {"name": model}}, folder, tmp_path / f"both/{model}.parquet")
    with pytest.raises(ValueError, match="has files of different models"):
        Embeddings.read(tmp_path / "both")
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match=r"holds no \.parquet file"):
        Embeddings.read(tmp_path / "none")
