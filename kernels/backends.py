"""Which renderers there are, and which of them work on this machine."""

import os

import torch

BACKENDS = ("triton", "cpu", "reference")


def why_unavailable(backend: str) -> str | None:
    """None when `backend` (of `BACKENDS`) works on this machine, else one line that says why not and the cure."""
    if backend != "triton":
        return None
    try:
        import triton  # noqa: F401
    except ImportError:
        return "Triton is not installed: pip install triton (Linux), or use the backend cpu"
    if interpreted():
        return None
    if not torch.cuda.is_available():
        return "no CUDA GPU is visible to torch: use the backend cpu"
    return _why_no_driver()


def interpreted() -> bool:
    """Whether Triton runs its kernels in Python, on any tensors."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def _why_no_driver() -> str | None:
    """Triton compiles a small C helper at its first use on a machine; None when that has worked."""
    from triton.runtime import driver

    try:
        driver.active.get_current_target()
    except Exception as error:  # whatever the missing compiler or header makes Triton raise
        said = " ".join(str(error).split())[:120]
        return f"Triton cannot build its C helper ({said}): apt-get install gcc python3-dev, or set CC"
    return None


def best_backend() -> str:
    """`triton` where it works, else `cpu`."""
    return "triton" if torch.cuda.is_available() and why_unavailable("triton") is None else "cpu"


def choose_backend(name: str, device: torch.device) -> str:
    """The backend that `name`, or `auto`, stands for with tensors on a device.

    Raises:
        ValueError: there is no such backend, it cannot run here, or it cannot read tensors there.
    """
    on_gpu = device.type == "cuda"
    if name == "auto":
        name = "triton" if on_gpu else "cpu"
    if name not in BACKENDS:
        raise ValueError(f"backend {name!r} is unknown: give auto, {', '.join(BACKENDS)}")
    if not on_gpu:  # tensors on a GPU have proved that there is one
        reason = why_unavailable(name)
        if reason:
            raise ValueError(f"backend {name!r} cannot run here: {reason}")
    fits = {"triton": on_gpu or interpreted(), "cpu": device.type == "cpu", "reference": True}
    if not fits[name]:
        raise ValueError(f"backend {name!r} cannot read a scene on {device}: move it with .to()")
    return name
