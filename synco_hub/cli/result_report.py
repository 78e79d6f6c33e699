"""The last lines of a measurement: what a reader has to know, what was left out, and where the result is."""

from __future__ import annotations

from pathlib import Path

from synco_hub.results import EvaluationResult

_NAMED_AT_MOST = 10


def print_end(result: EvaluationResult, output: Path) -> None:
    """Print notes, unreadable files and the result's place.

    Args:
        result: What was measured.
        output: Where it was written.
    """
    for note in result.notes:
        print(f"  {note}")
    if skipped := result.skipped_files:
        print(f"  skipped {len(skipped)} unreadable files: {', '.join(skipped[:_NAMED_AT_MOST])}")
    print(f"wrote {output}")
