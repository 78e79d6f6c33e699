"""Short names in `transformers`: `AutoModel.from_pretrained("synco-v2-deit-s")` after `import synco_hub`.

One function of `transformers` lies below AutoConfig, AutoModel, AutoImageProcessor and `pipeline`:
`transformers.utils.hub.cached_files`. It is wrapped so that a short name becomes, in this order, a local directory of
that name, an installed checkpoint, or the Hub repository of the zoo's row. Newer versions (5.23 does, 5.17 does not)
first ask the Hub which commit an id stands at; that question is answered likewise. Every other id goes through
untouched.

Importing the Auto classes costs seconds (they import torch), so everything here waits for the moment at which they are
first imported.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

import wrapt

from synco_hub.zoo import ZOO, checkpoint_directory, find_installed_directory


def resolve(name: str) -> str:
    """Say where `transformers` should load a model id from: an id itself unless it is a short name."""
    if os.path.isdir(name) or os.sep in name or "/" in name:
        return name
    if installed := find_installed_directory(name):
        return str(installed)
    row = ZOO.get(name)
    if row is None:
        return name
    if row.hub_repo is not None:
        return row.hub_repo
    raise OSError(describe_missing(name))


def describe_missing(name: str) -> str:
    """What to tell a user whose checkpoint is nowhere, with the three ways to get it."""
    row = ZOO[name]
    # The small ones are the project's own: there is nothing of the authors' to convert, but a quick way to make them.
    second = (
        f"convert the authors' release into a directory ./{name}: `synco-hub convert FILE --output ./{name}`"
        if row.paper
        else row.how_to_obtain
    )
    return (
        f"The checkpoint {name!r} is not on this computer (looked for a directory ./{name} and for "
        f"{checkpoint_directory(name)}) and the project has not published it yet. Three ways to get it: "
        f"(1) pull it from the Hub, if you trust a repository: `synco-hub pull {name} --from organisation/name`; "
        f"(2) {second}; "
        f"(3) pretrain it: `synco-hub pretrain --method {row.method} --backbone {row.backbone} --dataset DATA "
        f"--output-dir ./{name}`."
    )


def wrap_cached_files(hub_module: Any) -> None:
    """Wrap what asks for files and revisions, once."""
    original: Callable[..., Any] = hub_module.cached_files
    if getattr(original, "_resolves_short_names", False):
        return

    @functools.wraps(original)
    def cached_files(path_or_repo_id: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(path_or_repo_id, (str, os.PathLike)):
            path_or_repo_id = resolve(os.fspath(path_or_repo_id))
        return original(path_or_repo_id, *args, **kwargs)

    cached_files._resolves_short_names = True  # type: ignore[attr-defined]
    hub_module.cached_files = cached_files
    if hasattr(hub_module, "resolve_revision"):
        _wrap_client(hub_module.hf_api())


def _wrap_client(client: Any) -> None:
    """Wrap the Hub client that `transformers` shares: modules hold their own reference to what lies above it."""
    original: Callable[..., Any] = client.resolve_revision

    def resolve_revision(repo_id: str, *args: Any, revision: Any = None, **kwargs: Any) -> Any:
        # An error here is passed over by `transformers`, which meets it again when it asks for the first file.
        place = resolve(repo_id)
        return revision if os.path.isdir(place) else original(place, *args, revision=revision, **kwargs)

    client.resolve_revision = resolve_revision


def _register_config(module: ModuleType) -> None:
    from synco_hub.models.configuration_synco import SynCoConfig  # imports torch: only when somebody wants a model

    module.AutoConfig.register(SynCoConfig.model_type, SynCoConfig, exist_ok=True)


def _register_models(module: ModuleType) -> None:
    from synco_hub.models import SynCoConfig, SynCoForImageClassification, SynCoModel

    module.AutoModel.register(SynCoConfig, SynCoModel, exist_ok=True)
    module.AutoModelForImageClassification.register(SynCoConfig, SynCoForImageClassification, exist_ok=True)


def _register_image_processor(module: ModuleType) -> None:
    from transformers import ViTImageProcessor

    from synco_hub.models.configuration_synco import SynCoConfig

    # The keyword matters: the first positional class goes to the slower PIL backend.
    module.AutoImageProcessor.register(
        SynCoConfig, image_processor_classes={"torchvision": ViTImageProcessor}, exist_ok=True
    )


_ON_IMPORT = {
    "transformers.utils.hub": wrap_cached_files,
    "transformers.models.auto.configuration_auto": _register_config,
    "transformers.models.auto.modeling_auto": _register_models,
    "transformers.models.auto.image_processing_auto": _register_image_processor,
}


def register() -> None:
    """Arrange the registrations; each runs at once if its module is already imported."""
    for module_name, action in _ON_IMPORT.items():
        wrapt.register_post_import_hook(action, module_name)
