"""The configuration that a file carries which this package exported: with it nothing has to be told by shapes."""

from __future__ import annotations

from typing import Any

from synco_hub.hub.conversion.source import CheckpointSource
from synco_hub.hub.export.network import CONFIG_FIELDS
from synco_hub.hub.weight_fit import check_depth
from synco_hub.models import SynCoConfig


def exported_configuration(source: CheckpointSource) -> SynCoConfig:
    """The configuration that an export of ours carries; a stranger's file must not set anything else by it.

    Args:
        source: A file of tensors under timm's names, and the fields of a configuration.

    Raises:
        ValueError: If a field is unknown, or its value describes no network of these tensors.
    """
    if unknown := sorted(set(source.config) - {*CONFIG_FIELDS, "id2label"}):
        raise ValueError(f"{source.name} has a configuration with unknown fields {unknown[:5]}: the file is refused.")
    labels = _labels(source)
    values: dict[str, Any] = {key: value for key, value in source.config.items() if key != "id2label"}
    values |= {"id2label": labels} if labels else {}
    try:
        if "depth" in values:
            check_depth(values["depth"], len(source.content))
        return SynCoConfig(**values)
    except (TypeError, OverflowError, AttributeError) as error:
        raise ValueError(f"{source.name} has a configuration of impossible values ({error}).") from error


def _labels(source: CheckpointSource) -> dict[int, str]:
    try:
        return {int(index): str(name) for index, name in source.config.get("id2label", {}).items()}
    except (ValueError, AttributeError) as error:
        raise ValueError(
            f"{source.name} has a configuration whose id2label is no map of class numbers to names ({error}): the "
            "file is refused."
        ) from error
