"""`synco-hub results`: what was measured, side by side with the paper."""

from __future__ import annotations

from synco_hub.atomic_write import atomic_write
from synco_hub.cli.options import TableOptions
from synco_hub.results_table import compare_results, find_results, to_csv, to_json, to_markdown

_WRITERS = {"markdown": to_markdown, "csv": to_csv, "json": to_json}


def table(options: TableOptions) -> None:
    """`synco-hub results table`."""
    found = find_results(options.paths, options.protocol)
    text = _WRITERS[options.format](compare_results(found, with_paper=options.paper))
    if options.output is not None:
        with atomic_write(options.output) as temporary:
            temporary.write_text(text, encoding="utf-8")
    print(text, end="")
