"""Pages over HTTP, from servers on this machine: good ones, slow ones, failing ones, and such without ranges."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from lyra.engine.errors import InputError
from lyra.engine.lod import pages as pages_module
from lyra.engine.lod import ranges
from lyra.engine.lod.ranges import Patience
from lyra.engine.lod.store import UnreachablePage, leaves, open_store
from lyra.engine.lod.writer import write_store

HASTY = Patience(timeout=0.5, answer=1.0, tries=3, pause=0.01)


@pytest.fixture
def file(tmp_path: Path, stored_trees: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(pages_module, "CAPACITY", 256)
    monkeypatch.setattr(ranges, "HEAD", 4096)
    write_store(tmp_path / "a.lyra", stored_trees.merged_tree(stored_trees.scene_of(2000, 1)))
    return tmp_path / "a.lyra"


@pytest.fixture
def server(file: Path, page_server: ModuleType) -> Iterator[Any]:
    with page_server.serving(file.read_bytes()) as server:
        yield server


def test_as_from_disk_with_few_requests(file: Path, server: Any) -> None:
    with open_store(server.url) as far, open_store(file) as near:
        assert server.asked == ["bytes=0-4095"]  # the whole head
        assert far.name == server.url and far.metadata == near.metadata
        assert torch.equal(leaves(far).means, leaves(near).means)
        assert len(server.asked) == 1 + len(far) and len(server.callers) == 1  # kept alive


def test_heads_longer_than_the_first_piece(file: Path, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "HEAD", 100)
    with open_store(server.url) as far, open_store(file) as near:
        assert len(server.asked) == 3 and far.read(0) == near.read(0)


def test_many_threads(server: Any) -> None:
    with open_store(server.url, HASTY) as store, ThreadPoolExecutor(4) as pool:
        server.spoilt += ["503", "", "drop", "", "half", ""]
        pages = [page for _ in range(10) for page in range(len(store))]
        assert all(pool.map(lambda page: len(store.read(page)) == store.directory["bytes"][page], pages))
        assert len(server.callers) <= 16


@pytest.mark.parametrize("way", ["500", "503", "429", "drop", "silence", "half", "long"])
def test_what_goes_by(server: Any, way: str) -> None:
    """Once or twice wrong, then right; at the beginning and later."""
    server.spoilt += [way, way]
    with open_store(server.url, HASTY) as store:
        whole = store.read(1)
        server.spoilt += [way]
        assert store.read(1) == whole


@pytest.mark.parametrize(
    "way, told",
    [
        ("500", "the server answers 500 .3 tries"),
        ("drop", ".3 tries"),
        ("silence", "timed out .3 tries"),
        ("half", ".3 tries"),
        ("drip", "bytes came in 1 s .3 tries"),
        ("404", "the server answers 404"),
    ],
)
def test_what_does_not(server: Any, way: str, told: str) -> None:
    with open_store(server.url, HASTY) as store:
        server.spoilt += [way] * 3
        start = time.monotonic()
        with pytest.raises(UnreachablePage, match=f"lyra.v=1: page 2: .*{told}") as caught:
            store.read(2)
        assert time.monotonic() - start < 6 and "\n" not in str(caught.value)
        server.spoilt.clear()
        store.read(2)  # later it is there again
        server.spoilt += ["", *[way] * (1 if way == "404" else 3)]
        with pytest.warns(UserWarning, match=r"damaged: page 1 .*; coarser nodes stand in"):
            assert len(leaves(store)) > 0


def test_a_store_that_cannot_be_opened(server: Any) -> None:
    for ways, told in (
        (["500"] * 3, "the server answers 500 .3 tries., check the address and try again"),
        (["404"], "the server answers 404 to a range request, check the address"),
        (["416"], "the server answers 416"),
        (["file:///etc/passwd"], "is no http or https address"),
        (["/a"] * 9, "moved more than 5 times"),
    ):
        server.spoilt[:] = ways
        with pytest.raises(InputError, match=told) as caught:
            open_store(server.url, HASTY)
        assert "\n" not in str(caught.value)
    server.data = b"<html>" * 1000
    server.spoilt.clear()
    with pytest.raises(InputError, match="begins with 3c 68 74 6d instead of LYRA"):
        open_store(server.url, HASTY)
    for url in ("http://", "http://[x/a", "http://127.0.0.1:1/a.lyra", "http://127.0.0.1:x/a", "https://127.0.0.1:1/a"):
        with pytest.raises(InputError, match="address"):
            open_store(url, HASTY)


def test_moved_files_are_followed(server: Any) -> None:
    server.spoilt += ["/a", f"http://127.0.0.1:{server.server_address[1]}/a"]
    with open_store(server.url, HASTY) as store:
        store.read(3)


def test_a_file_that_changes_on_the_server(server: Any) -> None:
    with open_store(server.url, HASTY) as store:
        store.read(1)
        server.tag = '"2"'
        with pytest.raises(UnreachablePage, match="page 1: the file on the server has changed"):
            store.read(1)


def test_a_truncated_file(server: Any) -> None:
    whole = server.data
    server.data = whole[: len(whole) // 2]
    with pytest.warns(UserWarning, match="truncated, .* pages lost"):
        store = open_store(server.url)
    with store, pytest.warns(UserWarning, match="coarser nodes stand in"):
        assert len(leaves(store)) > 0


def test_closed(server: Any) -> None:
    store = open_store(server.url, HASTY)
    store.close()
    with pytest.raises(UnreachablePage, match="closed"):
        store.read(1)


def test_a_server_without_ranges(file: Path) -> None:
    """Python's own: it sends the whole file."""

    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(file.parent))  # type: ignore[arg-type]

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        with pytest.raises(InputError, match="sends whole files only, not ranges of bytes: download the file"):
            open_store(f"http://127.0.0.1:{server.server_address[1]}/a.lyra")
    finally:
        server.shutdown()
        server.server_close()
