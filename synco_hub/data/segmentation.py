"""Data sets with masks of classes: VOC2012, ADE20K, folders (`mask_folders.py`), tables with a column of masks.

`classes.txt` in a folder names its classes, one a line.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from synco_hub.data.folder_splits import SplitKind, list_split_folders
from synco_hub.data.mask_folders import has_masks, read_mask_folder
from synco_hub.data.masked_images import VOID, MaskedImages
from synco_hub.data.table_source import TableSource, is_hub_id, open_split, split_names
from synco_hub.settings import DatasetChoice

_CLASSES_FILE = "classes.txt"
_VOC_NAMES = (
    "background,aeroplane,bicycle,bird,boat,bottle,bus,car,cat,chair,cow,dining table,dog,horse,motorbike,person,"
    "potted plant,sheep,sofa,train,tv monitor"
)
_ADE_NAMES = (
    "wall,building,sky,floor,tree,ceiling,road,bed,windowpane,grass,cabinet,sidewalk,person,earth,door,table,mountain,"
    "plant,curtain,chair,car,water,painting,sofa,shelf,house,sea,mirror,rug,field,armchair,seat,fence,desk,rock,"
    "wardrobe,lamp,bathtub,railing,cushion,base,box,column,signboard,chest of drawers,counter,sand,sink,skyscraper,"
    "fireplace,refrigerator,grandstand,path,stairs,runway,case,pool table,pillow,screen door,stairway,river,bridge,"
    "bookcase,blind,coffee table,toilet,flower,book,hill,bench,countertop,stove,palm,kitchen island,computer,"
    "swivel chair,boat,bar,arcade machine,hovel,bus,towel,light,truck,tower,chandelier,awning,streetlight,booth,"
    "television receiver,airplane,dirt track,apparel,pole,land,bannister,escalator,ottoman,bottle,buffet,poster,stage,"
    "van,ship,fountain,conveyer belt,canopy,washer,plaything,swimming pool,stool,barrel,basket,waterfall,tent,bag,"
    "minibike,cradle,oven,ball,food,step,tank,trade name,microwave,pot,animal,bicycle,lake,dishwasher,screen,blanket,"
    "sculpture,hood,sconce,vase,traffic light,tray,ashcan,fan,pier,crt screen,plate,monitor,bulletin board,shower,"
    "radiator,glass,clock,flag"
)


@dataclass(frozen=True)
class SegmentationSet:
    """A published set.

    Attributes:
        title: Its name.
        class_names: In the order of its numbers.
        folders: What its folder is called, inside the one that is given.
        counts: Images of `train` and `test`.
        dataset_id: Copy on the Hub, a table.
        splits: Names of the copy's splits for `train` and `test`.
        columns: Names of the copy's columns of images and masks.
        revision: Of the copy.
        folder: Of the table in the copy.
        zero_is_void: Whether masks number classes from 1, and 0 is none of them.
        drawn: Whether masks may be pictures in VOC's colours.
    """

    title: str
    class_names: tuple[str, ...]
    folders: tuple[str, ...]
    counts: tuple[int, int]
    dataset_id: str
    splits: tuple[str, str]
    columns: tuple[str, str]
    revision: str | None = None
    folder: str | None = None
    zero_is_void: bool = False
    drawn: bool = False


SEGMENTATION_SETS: dict[str, SegmentationSet] = {
    "voc2012": SegmentationSet(
        "PASCAL VOC 2012",
        tuple(_VOC_NAMES.split(",")),
        ("VOC2012", "VOCdevkit/VOC2012", "VOCtrainval_11-May-2012/VOCdevkit/VOC2012"),
        (1464, 1449),
        "nateraw/pascal-voc-2012",
        ("train", "val"),
        ("image", "mask"),
        drawn=True,
    ),
    "ade20k": SegmentationSet(
        "ADE20K (scene parsing, 150 classes)",
        tuple(_ADE_NAMES.split(",")),
        ("ADEChallengeData2016",),
        (20_210, 2_000),
        "zhoubolei/scene_parse_150",
        ("train", "validation"),
        ("image", "annotation"),
        "refs/convert/parquet",  # the main branch has a script, which the library runs no more
        "scene_parsing",
        zero_is_void=True,
    ),
}


def load_masked_images(
    data: DatasetChoice, num_classes: int | None = None, zero_is_void: bool = False, progress: bool = False
) -> tuple[MaskedImages, MaskedImages]:
    """The training and the test images of a data set with masks.

    Args:
        data: A name of `SEGMENTATION_SETS` (its files in `data_dir`, else its copy on the Hub), a folder, or a table
            with a column of images and one of masks (`label_column`).
        num_classes: None takes as many as `classes.txt` names, else the highest value of all masks and one.
        zero_is_void: Whether masks number classes from 1, and 0 is none of them.
        progress: Show a bar while masks are looked through.

    Raises:
        ValueError: If a split is missing or empty, or the masks hold fewer than two classes.
        OSError: If files are missing, or the Hub cannot be reached.
    """
    folder = Path(data.data_dir or data.dataset).expanduser()
    row = SEGMENTATION_SETS.get(data.dataset) if data.data_dir or not folder.is_dir() else None
    if row is not None:
        _check_numbering(data.dataset, row, num_classes, zero_is_void)
    if row is not None and data.data_dir is not None:
        place = next((folder / name for name in row.folders if has_masks(folder / name)), folder)
        splits = read_mask_folder(place, data.dataset, data.split_seed)
    elif folder.is_dir() and has_masks(folder):
        splits = read_mask_folder(folder, data.dataset, data.split_seed)
    elif row is not None or is_hub_id(data.dataset) or folder.is_dir():
        splits = _read_table(data, row)
    else:
        raise FileNotFoundError(
            f"{data.dataset!r} is no folder: give one of images and masks, {' or '.join(SEGMENTATION_SETS)}, or the "
            "Hub id of a table with masks."
        )
    names = _name_classes(row, folder, num_classes)
    zero_is_void = zero_is_void or (row is not None and row.zero_is_void)
    drawn = row is not None and row.drawn
    train, test = (replace(each, zero_is_void=zero_is_void, drawn=drawn) for each in splits)
    if names is None:
        found = train.list_values(progress) | test.list_values(progress)
        names = tuple(map(str, range(max(found, default=-1) + 1)))
    if len(names) < 2:
        raise ValueError(
            f"{data.dataset!r}: its masks hold {len(names)} class beside {VOID}, which is none: at least two are "
            f"needed; where {VOID} marks the foreground, write 1 in its place."
        )
    return replace(train, class_names=names), replace(test, class_names=names)


def _check_numbering(name: str, row: SegmentationSet, num_classes: int | None, zero_is_void: bool) -> None:
    """Check that nothing is said of a known data set that is not so: its classes would get each other's names."""
    if num_classes not in (None, len(row.class_names)):
        raise ValueError(f"num_classes={num_classes}: {name} has {len(row.class_names)} classes; leave it out.")
    if zero_is_void and not row.zero_is_void:
        raise ValueError(f"zero_is_void: 0 is the class {row.class_names[0]!r} of {name}; leave it out.")


def _name_classes(row: SegmentationSet | None, folder: Path, num_classes: int | None) -> tuple[str, ...] | None:
    if row is not None:
        return row.class_names
    listed = folder / _CLASSES_FILE
    # Editors of Windows begin a file with a mark.
    lines = listed.read_text(encoding="utf-8-sig").splitlines() if listed.is_file() else []
    names = tuple(line.strip() for line in lines if line.strip())
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{str(listed)!r} names {twice[0]!r} twice: give each class a name of its own.")
    if num_classes is None:
        return names or None
    beyond = tuple(map(str, range(len(names), num_classes)))
    if taken := set(names) & set(beyond):
        name = min(taken, key=int)
        raise ValueError(
            f"num_classes={num_classes}: class {name} is called by its number, as {str(listed)!r} calls class "
            f"{names.index(name)}: name all {num_classes} classes there."
        )
    return names[:num_classes] + beyond


def _read_table(data: DatasetChoice, row: SegmentationSet | None) -> tuple[MaskedImages, MaskedImages]:
    """Training and test images of a table of the `datasets` library."""
    source = TableSource.of(data)
    if row is not None:
        source = replace(source, dataset=data.dataset_id or row.dataset_id)
        if data.dataset_id is None:
            source = replace(source, revision=data.revision or row.revision, data_dir=row.folder)
    stored = split_names(source)
    chosen = []
    for position, kind in enumerate((SplitKind.train, SplitKind.test)):
        found = [row.splits[position]] if row is not None and row.splits[position] in stored else []
        found += list_split_folders(stored, kind)
        if not found:
            raise ValueError(
                f"{source.dataset!r} has no {kind.value} split, only {', '.join(stored)}: give a table with one, or a "
                "folder with images/train, images/test and beside them masks/train, masks/test, which holds a PNG of "
                "class numbers for each image."
            )
        chosen.append((kind.value, found[0]))
    train, test = (_of_table(data, source, row, *each) for each in chosen)
    return train, test


def _of_table(
    data: DatasetChoice, source: TableSource, row: SegmentationSet | None, split: str, stored: str
) -> MaskedImages:
    table = open_split(source, stored)
    pictures = [name for name, kind in table.features.items() if type(kind).__name__ == "Image"]
    usual = (None, None) if row is None else row.columns
    image = data.image_column or next((name for name in (usual[0], "image", "img") if name in pictures), None)
    mask = data.label_column or (usual[1] if usual[1] in pictures else None)
    mask = mask or next((name for name in pictures if name != image and _says_mask(name)), None)
    rest = [name for name in pictures if name != mask]
    image = image or (rest[0] if len(rest) == 1 else None)
    others = [name for name in pictures if name != image]
    mask = mask or (others[0] if len(others) == 1 else None)
    if image is None or mask is None or not {image, mask} <= set(table.column_names):
        raise ValueError(
            f"{source.dataset!r} has the columns {', '.join(table.column_names)}: name the one of images by "
            "--image-column and the one of masks by --label-column; in a folder of pictures, masks/ lies beside "
            "images/ and holds a PNG of class numbers for each image, in the same splits."
        )
    for column in (image, mask):
        table = table.cast_column(column, type(table.features[column])(decode=False))
    names = tuple(f"{stored}[{number}]" for number in range(len(table)))
    sources = tuple(_Row(table, number, image, mask) for number in range(len(table)))
    if not names:
        raise ValueError(f"{source.dataset!r} has no row in its split {stored}: at least one is needed.")
    return MaskedImages(data.dataset, split, (), names, sources, split_rule=f"split {stored}")


def _says_mask(column: str) -> bool:
    return any(word in column.lower() for word in ("mask", "annotation", "label", "segment"))


@dataclass(frozen=True)
class _Row:
    table: Any
    number: int
    image: str
    mask: str

    def __call__(self) -> tuple[bytes, bytes]:
        row = self.table[self.number]
        image, mask = (_bytes_of(row[column]) for column in (self.image, self.mask))
        return image, mask


def _bytes_of(cell: dict[str, Any]) -> bytes:
    return cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()
