"""Original files that lie in one folder a class, named by wnid or by label: ImageNet's validation set and variants."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from synco_hub.data.class_labels import labels_of_list
from synco_hub.data.class_lists import class_list
from synco_hub.data.image_folder import ImageFolderDataset, image_files


def read_class_folders(folder: Path, list_name: str, whole: bool = False, others: bool = False) -> ImageFolderDataset:
    """Read `<class>/<image>` files, all of them as the test split.

    Args:
        folder: Holds one folder a class, named by wnid, or by label as in ImageNet-V2 (where 100 sorts before 2).
        list_name: The vendored list that labels follow.
        whole: Whether every class of the list must have an image.
        others: Whether folders of other ImageNet classes may be there; they are left out.

    Returns:
        The images in sorted order.

    Raises:
        ValueError: If there is no image, a class is not in the list, or one is missing.
    """
    wnids = class_list(list_name)
    leave_out = set(class_list("imagenet_1k")) - set(wnids) if others else set()
    names = [name for name in image_files(folder) if name.count("/") == 1 and name.split("/")[0] not in leave_out]
    if not names:
        raise ValueError(f"{folder}: no image in a class folder; its files are <class>/<image>, classes named by wnid")
    class_names = sorted({name.split("/", 1)[0] for name in names})
    position = {name: number for number, name in enumerate(class_names)}
    stored = np.array([position[name.split("/", 1)[0]] for name in names], dtype=np.int64)
    labels = labels_of_list(stored, class_names, wnids, str(folder))
    missing = sorted(set(range(len(wnids))) - set(labels.tolist()))
    if whole and missing:
        some = ", ".join(wnids[label] for label in missing[:5])
        raise ValueError(
            f"{folder}: images of {len(wnids) - len(missing)} of the {len(wnids)} classes of {list_name}, {some}"
            f"{' …' if len(missing) > 5 else ''} missing; unpack the whole archive"
        )
    return ImageFolderDataset(folder, names, labels.tolist(), wnids, "test", "all images are the test split")
