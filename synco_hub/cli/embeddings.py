"""`synco-hub embed` and `search`: features with the names of their images, and what is like a picture."""

from __future__ import annotations

import csv
from dataclasses import asdict

from synco_hub.atomic_write import atomic_write
from synco_hub.cli.options import EmbedOptions, SearchOptions
from synco_hub.embedding import write_embeddings
from synco_hub.embedding_map import write_map
from synco_hub.embedding_tables import Embeddings, format_end
from synco_hub.output_paths import check_output_file
from synco_hub.search import draw_matches, format_found, search
from synco_hub.settings import DatasetChoice, EmbeddingSettings
from synco_hub.visualization import save_figure


def embed(given: EmbedOptions, data: DatasetChoice, settings: EmbeddingSettings) -> None:
    """Write the table and say what it holds; draw its map where that is asked for."""
    if given.plot is not None:
        check_output_file(given.plot, "--plot", (".html",))
    print(format_end(write_embeddings(given.model, data, settings, given.output, given.model_revision)))
    if given.plot is not None:
        print(f"wrote {write_map(Embeddings.read(given.output), given.plot, given.projection)}")


def find_similar(options: SearchOptions) -> None:
    """Print what is most like each picture; write it as a table and draw it where that is asked for."""
    if options.output is not None:
        check_output_file(options.output, "--output", (".csv",))
    if options.figure is not None:
        check_output_file(options.figure, "--figure", (".png", ".pdf"))
    found = search(options.images, options.table, options.count, options.device)
    print(format_found(found))
    if options.output is not None:
        with atomic_write(options.output) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as stream:
            lines = csv.writer(stream)
            lines.writerow(["query", "rank", *asdict(found[0].matches[0])])
            for each in found:
                lines.writerows(
                    [each.query, rank, *asdict(match).values()] for rank, match in enumerate(each.matches, start=1)
                )
        print(f"wrote {options.output}")
    if options.figure is not None:
        print(f"wrote {save_figure(draw_matches(found, Embeddings.read(options.table)), options.figure)}")
