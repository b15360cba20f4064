"""What a cache of pages may use."""

from dataclasses import dataclass


@dataclass(frozen=True)
class CacheOptions:
    """What a cache may use.

    Raises:
        ValueError: a value is out of range; the message says what to give.
    """

    device_bytes: int = 1 << 30
    """Of decoded nodes, where they are drawn from; at least a slot for each store is taken."""
    host_bytes: int = 1 << 28
    """Of pages as they are in files, a fifth to a third of that; each worker may hold one more."""
    workers: int = 2
    """Threads that read and decode: more hide the latency of a far server."""
    requests: int = 8
    """Pages asked for at a time, at most."""
    links: int = 4
    """Pages that become part of the tree in a frame, at most: each takes the renderer's thread a fraction of a
    millisecond."""
    margin: float = 0.1
    """Share by which a page's priority must be above that of the page it replaces, so that they do not take turns."""
    retry: float = 1.0
    """Seconds until a page out of reach is asked for again; each time in a row twice as many."""
    longest_retry: float = 60.0
    """Seconds."""

    def __post_init__(self) -> None:
        least = {"device_bytes": 0, "host_bytes": 0, "workers": 1, "requests": 1, "links": 1}
        for name, low in least.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise ValueError(f"{name} is {value!r}, expected a whole number, {low} or more")
        if not 0.0 <= self.margin < 10.0:
            raise ValueError(f"margin is {self.margin}, expected a share, 0 or more, such as 0.1")
        if not 0.0 < self.retry <= self.longest_retry < 1e9:
            said = f"{self.retry}, {self.longest_retry}"
            raise ValueError(f"retry, longest_retry are {said}: give seconds, 0 < retry <= longest_retry")
