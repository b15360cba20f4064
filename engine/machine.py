"""On what machine, with what versions and at what commit a figure was measured."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch

from .. import __version__

try:
    import resource
except ImportError:  # Windows
    resource = None

PACKAGES = ("torch", "triton", "numba", "numpy")


def describe() -> dict[str, str | int | None]:
    """Processor, cores, GPU, versions and commit; None for what is not there."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    versions = {name: _version(name) for name in PACKAGES}
    return {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpu": gpu,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **versions,
        "lyra": __version__,
        "commit": _commit(Path(__file__).parents[1]),
    }


def line(machine: dict[str, str | int | None]) -> str:
    """The same on one line."""
    versions = ", ".join(f"{name} {machine[name]}" for name in ("python", *PACKAGES, "lyra") if machine[name])
    return f"{machine['cpu']} x{machine['cores']}, {machine['gpu'] or 'no GPU'}, {versions}, commit {machine['commit']}"


def peak_memory(device: torch.device) -> int:
    """Bytes: the most the GPU's allocator held, or on a CPU the most that the process held; 0 where nobody counts."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    if resource is None:
        return 0
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def cpu_name() -> str:
    """The processor as the system calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [text.partition(":")[2].strip() for text in lines if text.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _commit(folder: Path) -> str:
    """Short hash of the checkout that the package runs from, with `+` where files were changed; `unknown` elsewhere."""
    if not (folder / ".git").exists():
        return "unknown"
    try:
        git = ["git", "-C", str(folder)]
        head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout
        changes = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.strip() + ("+" if changes.strip() else "")
