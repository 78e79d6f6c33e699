"""Where generated data is kept between runs."""

import os
from pathlib import Path


def data_cache_directory(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """`cache_dir`, else `$SYNCO_HUB_HOME/data`, `$XDG_CACHE_HOME/synco_hub/data` or `~/.cache/synco_hub/data`."""
    if cache_dir is not None:
        return Path(cache_dir).expanduser()
    home = os.environ.get("SYNCO_HUB_HOME")
    if home:
        return Path(home).expanduser() / "data"
    user_cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(user_cache).expanduser() if user_cache else Path.home() / ".cache") / "synco_hub" / "data"
