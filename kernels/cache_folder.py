"""Where Lyra keeps what it can make again: machine code, procedural scenes."""

import os
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """The folder named by the environment variable LYRA_CACHE, else `lyra` in the user's caches; it may not exist."""
    return Path(os.environ.get("LYRA_CACHE") or platformdirs.user_cache_path("lyra"))
