"""Files that the package carries and that are no code: card templates and the like."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def package_file(*parts: str) -> Path:
    """The path of a file that is shipped inside the wheel, or stands at the top of a checkout.

    Args:
        *parts: For example `("model_cards", "card_template.md")`.

    Raises:
        FileNotFoundError: If the installation is incomplete.
    """
    for root in (_PACKAGE, _PACKAGE.parent):
        candidate = root.joinpath(*parts)
        if candidate.exists():
            return candidate
    raise FileNotFoundError(
        f"{'/'.join(parts)} is missing from the installation of synco_hub at {_PACKAGE}: install the package again."
    )
