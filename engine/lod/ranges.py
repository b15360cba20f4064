"""Pieces of a file: of one on disk, or of one that any web server has which answers range requests."""

import http.client
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urljoin, urlsplit

from ..errors import InputError
from ..files import cause, file_size

SCHEMES = ("http", "https")
MOVED = (301, 302, 303, 307, 308)
PLAIN = "/?%=&:;,@+$!*'()~[]"  # in addresses beside letters and digits
HOPS = 5  # from one address to the next
HEAD = 1 << 16  # bytes that are fetched with the first request, and kept
AGAIN = (408, 429, 500, 502, 503, 504)  # answers after which a server is asked again


@dataclass(frozen=True)
class Patience:
    """How long a server is waited for."""

    timeout: float = 10.0  # seconds without a byte
    answer: float = 60.0  # seconds for all bytes of an answer
    tries: int = 4
    pause: float = 0.2  # seconds before the second try; before each further one twice as long


class Unreachable(Exception):
    """Bytes that could not be fetched now; the message says why."""


class Stop:
    """What a read is handed so that another thread can cut it short; not the waiting for a connection."""

    def __init__(self) -> None:
        self._lock, self._event = threading.Lock(), threading.Event()
        self._sockets: set[socket.socket] = set()

    def set(self) -> None:
        """Make reads raise, those under way and those to come."""
        with self._lock:
            self._event.set()
            for waiting in self._sockets:
                try:
                    waiting.shutdown(socket.SHUT_RDWR)
                except OSError:  # it has come to its end
                    pass

    def wait(self, seconds: float) -> bool:
        """Wait unless, or until, this is set; returns whether it is."""
        return self._event.wait(seconds)

    @contextmanager
    def watching(self, waiting: socket.socket) -> Iterator[None]:
        """While bytes are waited for; raises ConnectionAbortedError where this is set already."""
        with self._lock:
            if self._event.is_set():
                raise ConnectionAbortedError("stopped")
            self._sockets.add(waiting)
        try:
            yield
        finally:
            with self._lock:
                self._sockets.discard(waiting)


NEVER = Stop()


class FileRanges:
    """A file on disk.

    It is held open and read, not mapped: a page of a mapped file that another program cuts short kills the process
    (SIGBUS) when it is touched, where a read comes back short. A file that is deleted stays readable.
    """

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            InputError: as `files.read_bytes`.
        """
        self.size = file_size(path)
        try:
            self._file = path.open("rb", buffering=0)
        except OSError as error:
            raise InputError(f"{path}: {cause(error)}, give a file that can be read") from error
        self._lock = threading.Lock()

    def read(self, place: int, size: int, stop: Stop = NEVER) -> bytes:
        """As many bytes as there are, up to `size`; from any thread. What has begun is not cut short.

        Raises:
            Unreachable: the disk does not answer, or the file is closed.
        """
        if stop.wait(0):
            raise Unreachable("stopped")
        try:
            if hasattr(os, "pread"):
                data = os.pread(self._file.fileno(), size, place)
                while len(data) < size and (more := os.pread(self._file.fileno(), size - len(data), place + len(data))):
                    data += more
                return data
            with self._lock:  # no pread on Windows
                self._file.seek(place)
                return self._file.read(size)
        except (OSError, ValueError) as error:
            raise Unreachable(cause(error)) from error

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


class HttpRanges:
    """A file on a web server. Connections are kept, one for each thread that reads at a time."""

    def __init__(self, url: str, patience: Patience) -> None:
        """Ask for its first HEAD bytes, which tells its size too.

        Raises:
            InputError: no such file, no answer, or a server without range requests.
        """
        self._patience, self._url, self._free, self._lock = patience, url, [], threading.Lock()
        self._open, self.size, self._tag, self._head = True, -1, None, b""
        for _ in range(HOPS):
            try:
                moved = self._locate()
            except Unreachable as error:
                raise InputError(f"{url}: {error}, check the address and try again") from error
            if moved is None:
                return
            self._url = urljoin(self._url, moved)
        raise InputError(f"{url}: moved more than {HOPS} times, give the address of the file itself")

    def read(self, place: int, size: int, stop: Stop = NEVER) -> bytes:
        """As many bytes as there are, up to `size`; from any thread.

        Raises:
            Unreachable: after all tries; or the file on the server is another by now.
        """
        size = max(0, min(size, self.size - place))
        if place + size <= len(self._head):
            return self._head[place : place + size]
        status, headers, body = self._ask(place, size, stop)
        if status != 206:
            raise Unreachable(f"the server answers {status}")
        if (_total(headers), headers.get("ETag")) != (self.size, self._tag):
            raise Unreachable("the file on the server has changed")
        return body

    def close(self) -> None:
        """Hang up."""
        self._open = False
        self._hang_up()

    def _locate(self) -> str | None:
        """Find the size; where the file has moved, its new address instead."""
        status, headers, body = self._ask(0, HEAD, NEVER)
        if status in MOVED and headers.get("Location"):
            return headers["Location"]
        if status == 200:
            raise InputError(
                f"{self._url}: the server sends whole files only, not ranges of bytes: download the file, or serve it "
                "with one that answers range requests"
            )
        if status != 206 or _total(headers) < 1:
            raise InputError(f"{self._url}: the server answers {status} to a range request, check the address")
        self.size, self._tag, self._head = _total(headers), headers.get("ETag"), body
        return None

    def _ask(self, place: int, size: int, stop: Stop) -> tuple[int, http.client.HTTPMessage, bytes]:
        """The answer to a request for `size` bytes, tried again where that may help."""
        told = ""
        for attempt in range(self._patience.tries):
            if stop.wait(self._patience.pause * 2 ** (attempt - 1) if attempt else 0):
                raise Unreachable("stopped")
            if not self._open:
                raise Unreachable("closed")
            connection = self._take()
            try:
                if connection.sock is None:
                    connection.connect()
                with stop.watching(connection.sock):  # type: ignore[arg-type]
                    status, headers, body = self._answer(connection, place, size)
            except (OSError, http.client.HTTPException, UnicodeError) as error:
                connection.close()
                self._hang_up()  # the others may be as old
                told = cause(error)
                continue
            if status == 206 and len(body) != (expected := max(0, min(size, _total(headers) - place))):
                told = f"{len(body)} bytes came instead of {expected}"
            elif status in AGAIN:
                told = f"the server answers {status}"
            else:
                return status, headers, body
        raise Unreachable(f"{told} ({self._patience.tries} tries)")

    def _answer(
        self, connection: http.client.HTTPConnection, place: int, size: int
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        parts = urlsplit(self._url)
        target = quote((parts.path or "/") + (f"?{parts.query}" if parts.query else ""), safe=PLAIN)
        headers = {"Range": f"bytes={place}-{place + size - 1}", "Accept-Encoding": "identity"}
        connection.request("GET", target, headers=headers)
        response = connection.getresponse()
        if response.status != 206:  # its body is of no use, and may be long
            connection.close()
            return response.status, response.headers, b""
        body, end = bytearray(), time.monotonic() + self._patience.answer
        while len(body) < size and (piece := response.read1(size - len(body))):  # no more than was asked for
            body += piece
            if time.monotonic() > end:
                raise TimeoutError(f"{len(body)} of {size} bytes came in {self._patience.answer:g} s")
        if response.length == 0 and not response.will_close:
            response.close()
            self._give(connection)
        else:
            connection.close()
        return response.status, response.headers, bytes(body)

    def _take(self) -> http.client.HTTPConnection:
        with self._lock:
            if self._free:
                return self._free.pop()
        try:
            parts = urlsplit(self._url)
            host, port = parts.hostname or "", parts.port
        except ValueError as error:
            raise InputError(f"{self._url}: {cause(error)}, check the address") from error
        if parts.scheme not in SCHEMES or not host:
            raise InputError(f"{self._url}: is no http or https address")
        if parts.scheme == "https":
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(host, port, timeout=self._patience.timeout, context=context)
        return http.client.HTTPConnection(host, port, timeout=self._patience.timeout)

    def _hang_up(self) -> None:
        with self._lock:
            free, self._free = self._free, []
        for connection in free:
            connection.close()

    def _give(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            if self._open:
                self._free.append(connection)
                return
        connection.close()


def _total(headers: http.client.HTTPMessage) -> int:
    """Bytes of the whole file, of `Content-Range: bytes 0-0/123`; -1 where that is not told."""
    text = headers.get("Content-Range", "").rpartition("/")[2].strip()
    return int(text) if text.isdecimal() else -1
