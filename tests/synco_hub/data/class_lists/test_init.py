import pkgutil

import pytest

from synco_hub.data.class_lists import CLASS_LISTS, imagenet_indices, read_class_list


def timm_list(name: str) -> list[str]:
    content = pkgutil.get_data("timm.data", f"_info/{name}.txt")
    assert content is not None
    return content.decode().split()


def test_imagenet_and_its_two_lists_are_those_of_timm():
    pytest.importorskip("timm")
    assert list(read_class_list("imagenet_1k")) == timm_list("imagenet_synsets")
    for letter in "ar":
        assert imagenet_indices(f"imagenet_{letter}") == [
            int(line) for line in timm_list(f"imagenet_{letter}_indices")
        ]
        assert list(read_class_list(f"imagenet_{letter}")) == timm_list(f"imagenet_{letter}_synsets")


def test_lengths_order_and_known_overlaps():
    lists = {name: read_class_list(name) for name in CLASS_LISTS}
    assert {name: len(set(wnids)) for name, wnids in lists.items()} == {
        "cifar10": 10,
        "cifar100": 100,
        "dtd": 47,
        "fashion_mnist": 10,
        "flowers102": 102,
        "oxford_pets": 37,
        "voc2007": 20,
        "imagenet_1k": 1000,
        "imagenet_100": 100,
        "imagenet_a": 200,
        "imagenet_r": 200,
        "imagenet_o": 200,
    }
    unsorted = {"imagenet_100", "flowers102", "fashion_mnist"}
    assert all(list(names) == sorted(names, key=str.casefold) for name, names in lists.items() if name not in unsorted)
    a, r, o = (set(lists[f"imagenet_{letter}"]) for letter in "aro")
    assert (len(a & r), len(o & a), len(o & r)) == (86, 59, 36)


def test_flowers_are_those_of_torchvision():
    flowers = pytest.importorskip("torchvision.datasets").Flowers102
    assert list(read_class_list("flowers102")) == flowers.classes


def test_articles_are_those_of_torchvision():
    articles = pytest.importorskip("torchvision.datasets").FashionMNIST
    assert list(read_class_list("fashion_mnist")) == articles.classes


def test_imagenet_o_is_the_published_selection():
    indices = imagenet_indices("imagenet_o")
    assert (indices[:6], indices[-4:], sum(indices)) == ([1, 51, 70, 79, 89, 90], [980, 987, 988, 996], 134542)
    assert read_class_list("imagenet_o")[0] == "n01443537"


def test_imagenet_100_keeps_the_order_of_its_copies():
    # Bonnet, green mamba, langur, Doberman, gyromitra, Saluki, vacuum.
    assert imagenet_indices("imagenet_100")[:7] == [452, 64, 374, 236, 993, 176, 882]


def test_an_unknown_list():
    with pytest.raises(ValueError, match="'imagenet_z' is unknown: use one of imagenet_1k"):
        read_class_list("imagenet_z")
