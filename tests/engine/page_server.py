"""A web server for tests that answers range requests, badly on demand."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


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


@contextmanager
def serving(data: bytes) -> Iterator[Server]:
    """A server for the length of a block."""
    server = Server(data)
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
