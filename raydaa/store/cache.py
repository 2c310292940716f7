"""Where studies share what each of them would make."""

import os
from pathlib import Path


def cache_at(named: str | None) -> Path:
    """The folder that ``storage.cache`` names, or its default."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(named or f"{home}/raydaa").expanduser().absolute()
