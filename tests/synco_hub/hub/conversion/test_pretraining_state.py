import pytest
import torch
from foreign_checkpoints import head

from synco_hub.hub.conversion.pretraining_state import collect_pretraining_state, find_pretraining_method
from synco_hub.hub.conversion.tensor_names import BackboneTensors
from synco_hub.models import SynCoConfig
from trainers import SynCoForPreTraining


@pytest.mark.parametrize(
    ("layout", "parts", "config", "method"),
    [
        ("synco-v2", {"queue": {}, "projector": {}}, None, "synco-v2"),
        ("synco-v2", {"projector": {}}, None, "byol"),
        ("synco-v2", {"queue": {}, "projector": {}}, {"MODEL": {"TYPE": "moby"}}, "moby"),
        ("synco-v2", {"projector": {}}, {"MODEL": {"TYPE": "byol"}}, "byol"),
        ("synco-v2", {"online": {}}, {"MODEL": {"TYPE": "linear"}}, "synco-v2"),
        ("moby", {"queue": {}, "projector": {}}, None, "moby"),
        ("dino", {}, {"MODEL": {"TYPE": "moby"}}, None),
        ("timm", {}, None, None),
    ],
)
def test_which_method_made_it(layout, parts, config, method):
    assert find_pretraining_method(layout, parts, config) == method


@pytest.mark.parametrize("method", ["synco-v2", "byol"])
def test_the_names_are_those_of_the_trainers_class(method):
    """The two agree by name only, as neither may import the other: this is where that is checked."""
    dim = SynCoConfig("vit-nano").hidden_size
    config = SynCoConfig(
        "vit-nano",
        pretraining={"method": method, "projection_hidden_dim": 24, "projection_dim": 16, "queue_size": 300},
    )
    model = SynCoForPreTraining(config)
    backbone = BackboneTensors(dict(model.synco.backbone.state_dict()), {}, {}, [])
    parts = {"projector": head(dim, 1), "target_projector": head(dim, 2), "predictor": head(16, 3)}
    if method != "byol":
        parts["queue"] = {
            "queue1": torch.randn(16, 300),
            "queue2": torch.randn(16, 300),
            "queue_ptr": torch.tensor([5]),
        }
    state, settings = collect_pretraining_state({"online": backbone, "target": backbone}, parts, method)
    own = model.state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == {
        key: tuple(value.shape) for key, value in own.items()
    }
    assert settings["projection_hidden_dim"] == 24
    assert settings.get("queue_size") == (None if method == "byol" else 300)
    assert all(state[key].dtype == own[key].dtype for key in own)
