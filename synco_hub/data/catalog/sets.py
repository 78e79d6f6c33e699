"""The catalog: every data set of the paper, and two small ones, by the name that a user types.

Here are the sets beside Table 9: shifted and corrupted ImageNets, the label subsets, and two small ones that anybody
can have at once, Fashion-MNIST and the embedded fractals; those of Table 9 are in `transfer.py`. Source: paper,
sections 7.6 and 8; the authors' archives of each set.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from synco_hub.data.catalog.row import DatasetRow, Layout, Metric
from synco_hub.data.catalog.transfer import IMAGENET_TERMS, TABLE_9_ROWS
from synco_hub.data.fractals.dataset import FractalParameters
from synco_hub.errors import suggest

FRACTALS = FractalParameters()
ARCHIVE_SPLITS = {"test": ("test",)}

# The 15 that mCE averages; the four hold-outs of the same archives are not among them.
BENCHMARK_CORRUPTIONS = [
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
]
HOLD_OUT_CORRUPTIONS = frozenset({"speckle_noise", "gaussian_blur", "spatter", "saturate"})

ROBUSTNESS_ROWS = (
    *(
        DatasetRow(
            name=f"imagenet-v2-{name}",
            title=f"ImageNet-V2 ({short})",
            dataset_id="vaishaal/ImageNetV2",
            is_table=False,
            splits=ARCHIVE_SPLITS,
            counts={"test": 10000},
            num_classes=1000,
            metric=Metric.top_1,
            layout=Layout.class_folders,
            class_list="imagenet_1k",
            per_class={"test": (10, 10)},
            folders=(f"imagenetv2-{name}-format-val", f"imagenet-v2-{name}"),
            original_files=f"imagenetv2-{name}.tar.gz as imagenetv2-{name}-format-val/<0 to 999>/*.jpeg",
            notes="The Hub copy holds archives that the datasets library cannot read. A folder's name is its label: "
            "sorted as text, 100 comes before 2.",
        )
        for name, short in (("matched-frequency", "MF"), ("threshold0.7", "T0.7"), ("top-images", "TI"))
    ),
    DatasetRow(
        name="imagenet-c",
        title="ImageNet-C",
        splits=ARCHIVE_SPLITS,
        counts={"test": len(BENCHMARK_CORRUPTIONS) * 5 * 50000},
        num_classes=1000,
        metric=Metric.corruptions,
        licence="CC BY 4.0",
        layout=Layout.class_folders,
        class_list="imagenet_1k",
        folders=("imagenet-c", "ImageNet-C"),
        original_files="<corruption>/<severity 1 to 5>/<wnid>/*.JPEG; one severity's folder may be given alone",
        notes="The files are cropped to 224 pixels already. The four hold-out corruptions are left out.",
    ),
    DatasetRow(
        name="imagenet-a",
        title="ImageNet-A",
        dataset_id="barkermrl/imagenet-a",
        config="default",
        splits={"test": ("train",)},
        counts={"test": 7500},
        num_classes=200,
        image_column="image",
        label_column="label",
        metric=Metric.top_1_of_200,
        layout=Layout.class_folders,
        class_list="imagenet_a",
        folders=("imagenet-a",),
        original_files="imagenet-a.tar as imagenet-a/<wnid>/*.jpg",
        notes="The Hub copy names its only split train.",
    ),
    DatasetRow(
        name="imagenet-r",
        title="ImageNet-R",
        dataset_id="axiong/imagenet-r",
        config="test",
        splits=ARCHIVE_SPLITS,
        counts={"test": 30000},
        num_classes=200,
        image_column="image",
        label_column="wnid",
        metric=Metric.top_1_of_200,
        layout=Layout.class_folders,
        class_list="imagenet_r",
        folders=("imagenet-r",),
        original_files="imagenet-r.tar as imagenet-r/<wnid>/*.jpg",
        notes="The labels of the Hub copy are wnids as text.",
    ),
    DatasetRow(
        name="imagenet-sketch",
        title="ImageNet-Sketch",
        dataset_id="clip-benchmark/wds_imagenet_sketch",
        config="default",
        splits=ARCHIVE_SPLITS,
        counts={"test": 50889},
        num_classes=1000,
        label_column="cls",
        metric=Metric.top_1,
        layout=Layout.class_folders,
        class_list="imagenet_1k",
        folders=("imagenet-sketch", "sketch"),
        original_files="ImageNet-Sketch.zip as sketch/<wnid>/*.JPEG",
        difference="Its authors round the count to 50,000.",
    ),
    DatasetRow(
        name="imagenet-o",
        title="ImageNet-O",
        dataset_id="cais/imagenet-o",
        config="default",
        splits=ARCHIVE_SPLITS,
        counts={"test": 2000},
        num_classes=200,
        image_column="image",
        label_column="label",
        metric=Metric.false_positives,
        layout=Layout.class_folders,
        class_list="imagenet_o",
        folders=("imagenet-o",),
        original_files="imagenet-o.tar as imagenet-o/<wnid>/*.jpg",
        notes="A label is the class that an image is taken for, never its class. The 10,000 validation images of the "
        "same 200 classes are the known ones.",
    ),
    DatasetRow(
        name="imagenet-w",
        title="ImageNet-W",
        is_table=False,
        splits={"test": ("validation",)},
        counts={"test": 50000},
        num_classes=1000,
        metric=Metric.top_1,
        gated=True,
        licence=f"{IMAGENET_TERMS}; the watermark CC BY-NC 4.0",
        class_list="imagenet_1k",
        base="imagenet-1k",
        original_files="none: a watermark drawn on the validation images of imagenet-1k (package imagenet-w)",
        notes="A transform between the crop and the normalisation, not files.",
    ),
    *(
        DatasetRow(
            name=f"imagenet-{percent}pct",
            title=f"ImageNet {percent} %",
            is_table=False,
            splits={"train": ("train",), "test": ("validation",)},
            counts={"train": lines, "test": 50000},
            num_classes=1000,
            metric=Metric.top_1,
            gated=True,
            licence=IMAGENET_TERMS,
            class_list="imagenet_1k",
            base="imagenet-1k",
            per_class={"train": spread},
            original_files=f"SimCLR's {percent}percent.txt: one <wnid>_<number>.JPEG of the training set a line",
            notes="A list of imagenet-1k's training images, downloaded once; the test split is that of imagenet-1k. "
            "`--dataset imagenet-1k --train-fraction` reads the same lists, `--train-list` a file of your own.",
        )
        for percent, lines, spread in ((1, 12811, (12, 13)), (10, 128116, (128, 129)))
    ),
    DatasetRow(
        name="fashion-mnist",
        title="Fashion-MNIST",
        dataset_id="zalando-datasets/fashion_mnist",
        config="fashion_mnist",
        splits={"train": ("train",), "test": ("test",)},
        counts={"train": 60000, "test": 10000},
        num_classes=10,
        image_column="image",
        label_column="label",
        metric=Metric.top_1,
        licence="MIT",
        known_names="fashion_mnist",
        per_class={"train": (6000, 6000), "test": (1000, 1000)},
        folders=("fashion-mnist", "FashionMNIST"),
        original_files="train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and "
        "t10k-labels-idx1-ubyte, .gz or not, as Debian's package dataset-fashion-mnist has them in "
        "/usr/share/datasets/fashion-mnist",
        notes="Grey pictures of 28 pixels.",
    ),
    DatasetRow(
        name="fractals",
        title="Fractals",
        is_table=False,
        splits={"train": ("train",), "test": ("test",)},
        counts={
            "train": FRACTALS.num_classes * FRACTALS.train_images_per_class,
            "test": FRACTALS.num_classes * FRACTALS.test_images_per_class,
        },
        num_classes=FRACTALS.num_classes,
        metric=Metric.top_1,
        licence="Apache-2.0",
        original_files="none: drawn by the package",
        notes="The counts are the defaults; another number of classes or images can be asked for.",
    ),
)


CATALOG: dict[str, DatasetRow] = {row.name: row for row in (*TABLE_9_ROWS, *ROBUSTNESS_ROWS)}


def find_catalog_row(name: str) -> DatasetRow:
    """The row of a data set of the paper; of a name that the catalog does not have the error names the nearest."""
    if name not in CATALOG:
        raise ValueError(
            f"data set {name!r} is not in the catalog; `synco-hub data list` shows every name.{suggest(name, CATALOG)}"
        )
    return CATALOG[name]


def find_row_meant(name: str, data_dir: object = None, dataset_id: object = None) -> DatasetRow | None:
    """The row that the name of a data set means, None where it means a folder or nothing in the catalog.

    An archive often unpacks to a folder of the set's own name. It comes before a bare name, and must not stand for
    the files (`data_dir`) or the copy (`dataset_id`) that were named beside it.
    """
    if data_dir is None and dataset_id is None and Path(name).expanduser().is_dir():
        return None
    return CATALOG.get(name)


def format_catalog(rows: Iterable[DatasetRow]) -> str:
    """A Markdown table, one line a set: name, copy on the Hub, classes, images, metric, whether it is gated."""
    lines = [
        "| `--dataset` | on the Hub | classes | train | test | metric | gated |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        copy = f"`{row.dataset_id}`" if row.has_table else "files only"
        copy = f"with `{row.base}`" if row.base else "drawn here" if row.name == "fractals" else copy
        counts = " | ".join(f"{row.counts[split]:,}" if split in row.counts else "–" for split in ("train", "test"))
        gated = "yes" if row.gated else "no"
        lines.append(f"| `{row.name}` | {copy} | {row.num_classes} | {counts} | {row.metric} | {gated} |")
    return "\n".join(lines) + "\n"
