"""Short names in `transformers`: `AutoModel.from_pretrained("synco-v2-deit-s")` after `import synco_hub`.

One function of `transformers` lies below all Auto classes and `pipeline`: `transformers.utils.hub.cached_files`. It is
wrapped so that a short name becomes, in this order, a local directory of that name, an installed checkpoint, one that
ships with the package, or the Hub repository of the zoo's row. Some of them also ask the Hub's client: which commit an
id stands at, whether it exists (AutoBackbone, of directories too), which templates it has (AutoProcessor), for which
task it is (`pipeline`). Of what lies on this computer these questions are answered here. Every other id goes through
untouched, but for one that only a mistyped short name can be.

Importing the Auto classes costs seconds (they import torch), so everything here waits for the moment at which they are
first imported.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import wrapt

from synco_hub.errors import suggest
from synco_hub.zoo import ZOO, checkpoint_directory, find_checkpoint_directory, find_zoo_name, list_models

# No id of the Hub without an organisation begins so.
_BEGINNINGS = tuple({f"{row.method}-" for row in ZOO.values()})


def resolve(name: str) -> str:
    """Say where `transformers` should load a model id from: an id itself unless it is a short name."""
    if os.path.isdir(name):
        return name
    name = find_zoo_name(name)
    _refuse_mistyped(name)
    if os.sep in name or "/" in name:
        return name
    if directory := find_checkpoint_directory(name):
        return str(directory)
    row = ZOO.get(name)
    if row is None:
        return name
    if row.hub_repo is not None:
        return row.hub_repo
    raise OSError(describe_missing(name))


def _refuse_mistyped(name: str) -> None:
    """Refuse what begins as names of the zoo do and is none, before the Hub is asked for it and says less."""
    bare = name.rstrip("/")
    if not bare.lower().startswith(_BEGINNINGS) or "/" in bare or os.path.exists(bare):
        return
    known = [row.name for row in list_models()]
    if bare not in known:
        raise OSError(
            f"{bare!r} is neither a directory, nor installed, nor in the zoo: `synco-hub list` shows what there is; a "
            f"Hub id has the form organisation/name.{suggest(bare.lower(), known)}"
        )


def describe_missing(name: str) -> str:
    """What to tell a user whose checkpoint is nowhere, with the three ways to get it."""
    row = ZOO[name]
    # The small ones are the project's own, and in every whole installation.
    second = (
        f"convert the authors' release into a directory ./{name}: `synco-hub convert FILE --output ./{name}`"
        if row.paper
        else f"install synco-hub again, with which it ships, or run `synco-hub demo --method {row.method}`"
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
    if hasattr(hub_module, "hf_api"):
        _wrap_client(hub_module.hf_api())


def _wrap_client(client: Any) -> None:
    """Wrap the Hub client that `transformers` shares: modules hold their own reference to what lies above it."""
    for question, answer in _ANSWERS.items():
        original = getattr(client, question, None)
        if original is not None:
            setattr(client, question, _answer_first(original, answer))


def _answer_first(original: Callable[..., Any], answer: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def asked(repo_id: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
        # Of `resolve_revision` transformers passes an error over, and meets it again when it asks for the first file.
        place = resolve(os.fspath(repo_id))
        found = answer(Path(place), **kwargs) if os.path.isdir(place) else NotImplemented
        return original(place, *args, **kwargs) if found is NotImplemented else found

    return asked


def _list_files(place: Path, path_in_repo: str = "", **_: Any) -> list[SimpleNamespace]:
    files = (place / path_in_repo).iterdir() if (place / path_in_repo).is_dir() else ()
    return [SimpleNamespace(path=file.relative_to(place).as_posix()) for file in files if file.is_file()]


def _describe_task(place: Path, **_: Any) -> Any:
    """What a model of this package is for; of another one only its card on the Hub says so."""
    file = place / "config.json"
    config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if config.get("model_type") != "synco":
        return NotImplemented
    classifies = any(name.endswith("ForImageClassification") for name in config.get("architectures") or ())
    task = "image-classification" if classifies else "image-feature-extraction"
    return SimpleNamespace(pipeline_tag=task, library_name="transformers")


# Answers about a directory on this computer, by the client's methods.
_ANSWERS: dict[str, Callable[..., Any]] = {
    "resolve_revision": lambda place, revision=None, **_: revision,
    "repo_exists": lambda place, **_: True,
    "list_repo_tree": _list_files,
    "snapshot_download": lambda place, **_: str(place),
    "model_info": _describe_task,
}


def _register_config(module: ModuleType) -> None:
    from synco_hub.models.configuration_synco import SynCoConfig  # imports torch: only when somebody wants a model

    module.AutoConfig.register(SynCoConfig.model_type, SynCoConfig, exist_ok=True)


def _register_models(module: ModuleType) -> None:
    from synco_hub.models import SynCoBackbone, SynCoConfig, SynCoForImageClassification, SynCoModel

    module.AutoBackbone.register(SynCoConfig, SynCoBackbone, exist_ok=True)
    module.AutoModel.register(SynCoConfig, SynCoModel, exist_ok=True)
    module.AutoModelForImageClassification.register(SynCoConfig, SynCoForImageClassification, exist_ok=True)


def _register_image_processor(module: ModuleType) -> None:
    from transformers import ViTImageProcessor

    from synco_hub.models.configuration_synco import SynCoConfig

    # The keyword matters: the first positional class goes to the slower PIL backend.
    module.AutoImageProcessor.register(
        SynCoConfig, image_processor_classes={"torchvision": ViTImageProcessor}, exist_ok=True
    )


def _register_feature_extractor(module: ModuleType) -> None:
    from transformers import ViTImageProcessor

    from synco_hub.models.configuration_synco import SynCoConfig

    # What code of earlier days calls an image processor.
    module.AutoFeatureExtractor.register(SynCoConfig, ViTImageProcessor, exist_ok=True)


_ON_IMPORT = {
    "transformers.utils.hub": wrap_cached_files,
    "transformers.models.auto.configuration_auto": _register_config,
    "transformers.models.auto.modeling_auto": _register_models,
    "transformers.models.auto.image_processing_auto": _register_image_processor,
    "transformers.models.auto.feature_extraction_auto": _register_feature_extractor,
}


def register() -> None:
    """Arrange the registrations; each runs at once if its module is already imported."""
    for module_name, action in _ON_IMPORT.items():
        wrapt.register_post_import_hook(action, module_name)
