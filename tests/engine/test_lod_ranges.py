"""Pages over HTTP, from servers on this machine: good ones, slow ones, failing ones, and such without ranges."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest
import torch

from lyra.engine.errors import InputError
from lyra.engine.lod import pages as pages_module
from lyra.engine.lod import ranges
from lyra.engine.lod.ranges import Patience
from lyra.engine.lod.store import UnreachablePage, leaves, open_store
from lyra.engine.lod.writer import write_store

HASTY = Patience(timeout=0.5, answer=1.0, tries=3, pause=0.01)


class Server(ThreadingHTTPServer):
    """Serves one file in ranges, the next answers spoilt on demand."""

    daemon_threads = True

    def __init__(self, data: bytes) -> None:
        self.data, self.tag = data, '"1"'
        self.spoilt: list[str] = []  # of the next requests, first to last
        self.asked: list[str] = []  # ranges
        self.callers: set[int] = set()  # ports, one a connection
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/a scene.lyra?v=1"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.server.callers.add(self.client_address[1])
        self.server.asked.append(self.headers["Range"])
        way = self.server.spoilt.pop(0) if self.server.spoilt else ""
        first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        piece, total = self.server.data[first : last + 1], len(self.server.data)
        if way.isdecimal() or self.path not in ("/a%20scene.lyra?v=1", "/a"):
            self.send_error(int(way or 404))
            return
        if way.startswith(("http", "/", "file")):
            self.send_response(302)
            self.send_header("Location", way)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if way == "drop":
            self.close_connection = True
            return
        if way == "silence":
            time.sleep(0.8)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{first + len(piece) - 1}/{total}")
        self.send_header("ETag", self.server.tag)
        self.send_header("Content-Length", str(len(piece) + 10 * (way == "long")))
        self.end_headers()
        if way == "drip":
            for place in range(0, len(piece), 50):
                self.wfile.write(piece[place : place + 50])
                time.sleep(0.1)
        self.wfile.write(piece[: len(piece) // 2] if way == "half" else piece)
        if way in ("half", "long"):
            self.close_connection = True


@pytest.fixture
def file(tmp_path: Path, lod_trees: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(pages_module, "CAPACITY", 256)
    monkeypatch.setattr(ranges, "HEAD", 4096)
    write_store(tmp_path / "a.lyra", lod_trees.merged_tree(lod_trees.scene_of(2000, 1)))
    return tmp_path / "a.lyra"


@pytest.fixture
def server(file: Path) -> Iterator[Server]:
    server = Server(file.read_bytes())
    yield server
    server.shutdown()
    server.server_close()


def test_as_from_disk_with_few_requests(file: Path, server: Server) -> None:
    with open_store(server.url) as far, open_store(file) as near:
        assert server.asked == ["bytes=0-4095"]  # the whole head
        assert far.name == server.url and far.metadata == near.metadata
        assert torch.equal(leaves(far).means, leaves(near).means)
        assert len(server.asked) == 1 + len(far) and len(server.callers) == 1  # kept alive


def test_heads_longer_than_the_first_piece(file: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "HEAD", 100)
    with open_store(server.url) as far, open_store(file) as near:
        assert len(server.asked) == 3 and far.read(0) == near.read(0)


def test_many_threads(server: Server) -> None:
    with open_store(server.url, HASTY) as store, ThreadPoolExecutor(4) as pool:
        server.spoilt += ["503", "", "drop", "", "half", ""]
        pages = [page for _ in range(10) for page in range(len(store))]
        assert all(pool.map(lambda page: len(store.read(page)) == store.directory["bytes"][page], pages))
        assert len(server.callers) <= 16


@pytest.mark.parametrize("way", ["500", "503", "429", "drop", "silence", "half", "long"])
def test_what_goes_by(server: Server, way: str) -> None:
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
def test_what_does_not(server: Server, way: str, told: str) -> None:
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


def test_a_store_that_cannot_be_opened(server: Server) -> None:
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


def test_moved_files_are_followed(server: Server) -> None:
    server.spoilt += ["/a", f"http://127.0.0.1:{server.server_address[1]}/a"]
    with open_store(server.url, HASTY) as store:
        store.read(3)


def test_a_file_that_changes_on_the_server(server: Server) -> None:
    with open_store(server.url, HASTY) as store:
        store.read(1)
        server.tag = '"2"'
        with pytest.raises(UnreachablePage, match="page 1: the file on the server has changed"):
            store.read(1)


def test_a_truncated_file(server: Server) -> None:
    whole = server.data
    server.data = whole[: len(whole) // 2]
    with pytest.warns(UserWarning, match="truncated, .* pages lost"):
        store = open_store(server.url)
    with store, pytest.warns(UserWarning, match="coarser nodes stand in"):
        assert len(leaves(store)) > 0


def test_closed(server: Server) -> None:
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
