"""A process that flies through a scene several times as large as its budgets keeps to them."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from lyra.engine.lod import pages as pages_module
from lyra.engine.lod.pool import slot_bytes
from lyra.engine.lod.writer import StoreWriter

PAGE, DEVICE, HOST = 4096, 128 << 20, 6 << 20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
def test_memory_stays_within_the_budgets(
    tmp_path: Path, stored_trees: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most 5 % above what the process had before and both budgets; and most of them is used."""
    monkeypatch.setattr(pages_module, "CAPACITY", PAGE)
    field = stored_trees.scene_of(60, 3)
    field = dataclasses.replace(field, means=field.means * 10)
    top, path = stored_trees.merged_tree(field), tmp_path / "field.lyra"
    with StoreWriter(path, radius=1000.0) as writer:
        parts = [
            writer.add(stored_trees.merged_tree(stored_trees.scene_of(12_000, 3, seed), seed)) for seed in range(3)
        ]
        leaves = np.flatnonzero(top.counts.numpy() == 0).tolist()
        writer.finish(top, {leaf: parts[place % 3] for place, leaf in enumerate(leaves)})
    script = Path(__file__).with_name("fly_through.py")
    run = subprocess.run(
        [sys.executable, script, path, str(DEVICE), str(HOST)], capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
    told = json.loads(run.stdout)
    assert told["nodes"] * slot_bytes(PAGE, 16) / PAGE > 4 * DEVICE and told["evictions"] > 20
    used = told["most"] - told["before"]
    assert 0.9 * (told["device_bytes"] + told["host_bytes"]) < used <= 1.05 * (DEVICE + HOST)
    assert told["device_bytes"] > 0.9 * DEVICE and told["host_bytes"] > 0.9 * HOST and told["bytes_read"] > HOST
