"""Sets whose lists are MATLAB files: Flowers-102 and Stanford Cars, as their archives unpack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from synco_hub.data.class_lists import class_list
from synco_hub.data.original.matlab_file import read_matlab_file
from synco_hub.data.original.split import OriginalSplit, require_located


def read_flowers102(folder: Path, split: str) -> OriginalSplit:
    """`jpg/image_#####.jpg` with `imagelabels.mat` (labels) and `setid.mat` (trnid, valid, tstid), all from 1.

    Training is trnid and valid together: 1,020 + 1,020 images; tstid has 6,149. Some copies exchange trnid and tstid.
    """
    root = require_located(folder, "Flowers-102", "setid.mat", "imagelabels.mat", "jpg")
    sets = read_matlab_file(root / "setid.mat")
    keys = ("trnid", "valid") if split == "train" else ("tstid",)
    numbers = np.concatenate([_vector(sets, key, root / "setid.mat") for key in keys])
    labels = _vector(read_matlab_file(root / "imagelabels.mat"), "labels", root / "imagelabels.mat") - 1
    if len(numbers) and not 1 <= numbers.min() <= numbers.max() <= len(labels):
        raise ValueError(
            f"{root / 'setid.mat'}: images {numbers.min()} to {numbers.max()}, where imagelabels.mat has {len(labels)}"
            "; the two files are of different sets."
        )
    names = [f"image_{number:05d}.jpg" for number in numbers.tolist()]
    class_names = class_list("flowers102")
    return OriginalSplit(
        root / "jpg", names, labels[numbers - 1].tolist(), class_names, f"{' and '.join(keys)} of setid.mat"
    )


def read_stanford_cars(folder: Path, split: str) -> OriginalSplit:
    """`cars_train/`, `cars_test/` with `devkit/cars_train_annos.mat` and `cars_test_annos_withlabels.mat`.

    The labelled test annotations lie in the devkit or beside it; those of the devkit alone have no classes.
    """
    root = require_located(folder, "Stanford Cars", "devkit/cars_meta.mat", f"cars_{split}")
    file = "cars_train_annos.mat" if split == "train" else "cars_test_annos_withlabels.mat"
    path = next((place / file for place in (root / "devkit", root) if (place / file).is_file()), None)
    if path is None:
        raise ValueError(f"{root}: {file} was not found in it or in devkit/; the other files have no test labels.")
    rows = read_matlab_file(path).get("annotations")
    meta = read_matlab_file(root / "devkit" / "cars_meta.mat")
    class_names = meta.get("class_names")
    if not isinstance(rows, list) or not isinstance(class_names, list) or any("class" not in row for row in rows):
        raise ValueError(f"{path}: no annotations with classes; give the files of the devkit.")
    labels = [int(np.asarray(row["class"]).item()) - 1 for row in rows]
    return OriginalSplit(
        root / f"cars_{split}", [str(row["fname"]) for row in rows], labels, list(map(str, class_names)), file
    )


def _vector(variables: dict[str, Any], key: str, path: Path) -> npt.NDArray[np.int64]:
    values = variables.get(key)
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "iuf":
        raise ValueError(f"{path}: no numbers named {key} among {', '.join(variables)}; unpack the original again.")
    return values.reshape(-1).astype(np.int64)
