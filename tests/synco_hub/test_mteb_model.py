"""`synco_hub.mteb_model` in tasks of MTEB over images that lie here, beside scikit-learn on vectors of `embed`."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import synco_hub
from synco_hub.hub.model_names import Revision
from synco_hub.models import SynCoConfig, SynCoModel, image_processor

pytestmark = pytest.mark.extras


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    SynCoModel(SynCoConfig("vit-nano", depth=1)).save_pretrained(tmp_path / "mine")
    image_processor(32).save_pretrained(tmp_path / "mine")
    return tmp_path / "mine"


@pytest.fixture
def folder(tmp_path):
    """Three classes of pictures, told by their colour; one grey, one transparent."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 8)):
        for label in range(3):
            for number in range(count):
                pixels = rng.integers(0, 100, (40, 52, 3), dtype=np.uint8)
                pixels[..., label] += 100
                image = Image.fromarray(pixels)
                path = tmp_path / "pictures" / split / f"class {label}" / f"{number:02}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                (image.convert("RGBA") if number == 3 else image).save(path)
    return tmp_path / "pictures"


def tasks(folder):
    import datasets
    from mteb.abstasks.classification import AbsTaskClassification
    from mteb.abstasks.clustering_legacy import AbsTaskClusteringLegacy
    from mteb.abstasks.task_metadata import TaskMetadata

    def about(name, kind, score):
        return TaskMetadata(
            name=name,
            type=kind,
            main_score=score,
            description="Pictures that lie here.",
            reference="https://example.org",
            dataset={"path": "local/pictures", "revision": "1"},
            category="i2c",
            modalities=["image"],
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
        )

    def load(task):
        task.dataset = datasets.load_dataset(
            "imagefolder", data_dir=str(folder), cache_dir=str(folder.parent / "cache")
        )
        task.data_loaded = True

    class Classes(AbsTaskClassification):
        metadata = about("LocalClasses", "ImageClassification", "accuracy")
        input_column_name, label_column_name = "image", "label"
        samples_per_label, n_experiments = 12, 1

        def load_data(self, num_proc=None, **kwargs):
            load(self)

    class Clusters(AbsTaskClusteringLegacy):
        metadata = about("LocalClusters", "ImageClustering", "nmi")
        input_column_name, label_column_name = "image", "label"

        def load_data(self, num_proc=None, **kwargs):
            load(self)

    return Classes(), Clusters()


def vectors(checkpoint, folder, tmp_path):
    """By split and file name."""
    quiet = {"num_workers": 0, "progress": False, "device": "cpu"}
    table = synco_hub.Embeddings.read(synco_hub.embed(checkpoint, folder, tmp_path / "e.parquet", **quiet))
    return dict(zip(table.file_names, table.vectors, strict=True))


def test_image_tasks_run_and_give_the_numbers_of_the_vectors(checkpoint, folder, tmp_path):
    import mteb
    from sklearn.linear_model import LogisticRegression

    from synco_hub.mteb_model import MtebImageModel

    model = MtebImageModel(checkpoint, device="cpu")
    classes, clusters = tasks(folder)
    result = mteb.evaluate(model, [classes, clusters], cache=None, show_progress_bar=False)
    scores = {each.task_name: each.scores["test"][0] for each in result.task_results}
    assert 0 <= scores["LocalClusters"]["nmi"] <= 1
    known = vectors(checkpoint, folder, tmp_path)
    sides = {
        split: [(vector, name.split("/")[-2]) for name, vector in known.items() if f"{split}/" in name]
        for split in ("train", "test")
    }
    (bank, labels), (asked, targets) = (zip(*sides[split], strict=True) for split in ("train", "test"))
    slow = LogisticRegression(max_iter=100).fit(np.stack(bank), labels).score(np.stack(asked), targets)
    assert scores["LocalClasses"]["accuracy"] == pytest.approx(slow, abs=0.05)
    meta = model.mteb_model_meta
    assert (meta.name, meta.modalities, meta.embed_dim) == ("synco-hub/mine", ["image"], 96)
    assert len(meta.revision) == 16


def test_encode_gives_the_vectors_of_embed_and_leaves_the_network_as_it_was(checkpoint, folder, tmp_path):
    from mteb.models import EncoderProtocol

    from synco_hub.mteb_model import MtebImageModel

    model = MtebImageModel(str(checkpoint), device="cpu")
    assert isinstance(model, EncoderProtocol)
    [classes, _] = tasks(folder)
    files = sorted((folder / "test").rglob("*.png"))
    batches = [{"image": [Image.open(file) for file in files[start : start + 7]]} for start in range(0, len(files), 7)]
    found = model.encode(batches, task_metadata=classes.metadata, hf_split="test", hf_subset="default")
    known = vectors(checkpoint, folder, tmp_path)
    expected = np.stack([next(known[name] for name in known if str(file).endswith(name)) for file in files])
    assert found.numpy() == pytest.approx(expected, abs=1e-6)
    similarity = model.similarity(found, found[:1])[:, 0].numpy()
    assert similarity[0] == pytest.approx(1)
    with pytest.raises(ValueError, match=r"task LocalClasses gives text: .* embeds images"):
        model.encode([{"text": ["a"]}], task_metadata=classes.metadata)
    with pytest.raises(ValueError, match="task LocalClasses gave no image"):
        model.encode([], task_metadata=classes.metadata)


@pytest.mark.parametrize("kind", ["timm", "transformers"])
def test_other_peoples_models(kind, folder, tmp_path, monkeypatch):
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    from synco_hub.mteb_model import MtebImageModel

    if kind == "timm":
        create = timm.create_model
        monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **rest: create(name, **rest))
        nowhere = Revision(None, "none: its weights lie on no Hub")
        monkeypatch.setattr("synco_hub.mteb_model.find_revision", lambda name, revision: nowhere)
        name, expected = "timm:vit_tiny_patch16_224", "timm/vit_tiny_patch16_224"
    else:
        ViTModel(ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32)).save_pretrained(
            tmp_path / "vit"
        )
        ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vit")
        name, expected = tmp_path / "vit", "synco-hub/vit"
    model = MtebImageModel(name, device="cpu")
    assert model.mteb_model_meta.name == expected
    batch = {"image": [Image.new("L", (50, 40), 90), Image.new("RGB", (40, 50), (9, 90, 200))]}
    found = model.encode([batch], task_metadata=tasks(folder)[0].metadata, show_progress_bar=False)
    assert found.shape == (2, model.mteb_model_meta.embed_dim)
    assert torch.isfinite(found).all()
