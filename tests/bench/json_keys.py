"""Keys of what lyra-bench writes, as docs/bench.md has them."""

import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "bench.md").read_text()


def keys(value: Any, stages: Collection[str], scores: Collection[str] = (), path: str = "") -> Iterator[str]:
    """All keys as docs/bench.md writes them."""
    if isinstance(value, dict):
        for name, below in value.items():
            stage = name in stages and path.endswith("milliseconds")
            named = "<stage>" if stage else "<score>" if name in scores else name
            yield from keys(below, stages, scores, f"{path}.{named}" if path else named)
    elif isinstance(value, list):
        for below in value or [None]:
            yield from keys(below, stages, scores, f"{path}[]")
    else:
        yield path


def documented(*starts: str) -> set[str]:
    found = re.findall(r"^\| `([^`]+)` \|", PAGE, re.MULTILINE)
    assert len(found) == len(set(found))
    return {key for key in found if key.startswith(starts)}
