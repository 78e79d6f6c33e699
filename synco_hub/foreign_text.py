"""Names out of strangers' files, fit to be shown: they may be of any length and move the cursor of a terminal."""

from __future__ import annotations

from collections.abc import Iterable


def shown(text: object, longest: int = 120) -> str:
    """A name in printable characters on one line, its end left out where it is long.

    Args:
        text: What a stranger wrote.
        longest: Characters that are shown.
    """
    whole = str(text)
    printable = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in whole[: longest + 1])
    return printable if len(printable) <= longest else f"{printable[:longest]}…"


def listed(texts: Iterable[object], most: int) -> str:
    """The first names of many, with commas; an ellipsis where some are left out.

    Args:
        texts: What a stranger wrote.
        most: How many of them.
    """
    names = list(texts)
    return ", ".join(map(shown, names[:most])) + (" …" if len(names) > most else "")
