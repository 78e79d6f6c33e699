"""`synco-hub embed`: features with the names of their images."""

from __future__ import annotations

from synco_hub.cli.options import EmbedOptions
from synco_hub.embedding import write_embeddings
from synco_hub.embedding_tables import format_end
from synco_hub.settings import DatasetChoice, EmbeddingSettings


def embed(given: EmbedOptions, data: DatasetChoice, settings: EmbeddingSettings) -> None:
    """Write the table and say what it holds."""
    print(format_end(write_embeddings(given.model, data, settings, given.output, given.model_revision)))
