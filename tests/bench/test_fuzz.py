"""2,000 damaged files in all formats: each loads or is refused in one line, soon and in little memory."""

import sys
from collections import Counter
from pathlib import Path

import pytest

from lyra.bench.fuzz import run, seeds

CASES = 2000


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured through /proc")
def test_damaged_files_load_or_are_refused(tmp_path: Path) -> None:
    whole = seeds(tmp_path, None)
    failures: list[str] = []
    counts = Counter[str]()
    for name, files in whole.items():
        counts += run(name, files, range(-(-CASES // len(whole))), failures.append)
    assert not failures, "\n".join(failures[:20])
    assert counts.total() >= CASES and counts["loaded"] > CASES / 20 and counts["refused"] > CASES / 5
