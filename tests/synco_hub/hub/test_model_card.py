import yaml
from huggingface_hub import ModelCard

from synco_hub.hub.model_card import write_card
from synco_hub.models import SynCoConfig
from synco_hub.results import DataSource, EvaluationResult, ModelSource, ProtocolFacts


def result(**metrics: float) -> EvaluationResult:
    return EvaluationResult(
        metrics=metrics,
        model=ModelSource("my-vit"),
        dataset=DataSource("photographs", "test", 40),
        protocol=ProtocolFacts("knn", {"temperature": 0.07}),
    )


def test_a_card_holds_facts_and_the_numbers_that_were_measured(tmp_path):
    config = SynCoConfig(backbone="vit-nano", pretraining={"method": "moby"}).to_dict()
    write_card(tmp_path, "my-vit", config, {"seed": 7, "data": {"name": "photographs"}}, [result(top1_k10=61.25)])
    card = ModelCard.load(tmp_path / "README.md")
    assert "| data.name | photographs |" in card.text
    assert "| knn | photographs (test) | top1_k10 | 61.25 |" in card.text
    assert 'from_pretrained("my-vit")' in card.text
    data = yaml.safe_load(card.content.split("---")[1])
    metric = data["model-index"][0]["results"][0]["metrics"][0]
    assert (metric["type"], metric["value"]) == ("top1_k10", 61.25)
    assert data["library_name"] == "transformers"


def test_a_card_without_measurements_shows_no_number(tmp_path):
    write_card(tmp_path, "my-vit", SynCoConfig(backbone="vit-nano").to_dict(), {})
    card = ModelCard.load(tmp_path / "README.md")
    assert "Not measured yet" in card.text
    assert "model-index" not in card.content
