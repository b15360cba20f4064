"""What a Triton kernel costs on a GPU that need not be here: cross-compile it, read the machine code, count.

Triton compiles for architectures that the machine does not have, and its wheel ships `cuobjdump` and `nvdisasm`.
"""

import importlib
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .launches import Launch

ALIGNED = [["tt.divisibility", 16]]  # what a launch finds out about torch's pointers
TOOL_TIMEOUT = 60.0  # seconds

_LINE = re.compile(r"\s+/\*([0-9a-f]{4,})\*/\s+(.*?);")
_LABEL = re.compile(r"(\.L_x_\d+):")
_BRANCH = re.compile(r"BRA[^`]*`\((\.L_x_\d+)\)")


class CompileError(Exception):
    """A kernel can not be measured here; one line says why and what to do."""


@dataclass(frozen=True)
class Cost:
    """One kernel on one architecture, as compiled; as a budget, the most (of vector loads: the fewest) allowed."""

    registers: int  # a thread
    stack: int = 0  # bytes a thread: arrays and spilled registers
    shared: int = 0  # bytes a program
    barriers: int = 0  # instructions that wait for other warps of the program
    vector_loads: int = 0  # 16-byte loads from global memory
    exp2: int = 0  # hardware exponentials in the loop that blends; not a budget
    per_pixel: float = 0.0  # instructions of that loop for each exponential, one a splat and pixel; 0: there is no loop


def measure(launch: Launch, capability: int) -> Cost:
    """Compile a kernel as it was launched, for an architecture such as 90, and count.

    Raises:
        CompileError: TRITON_INTERPRET is set, the kernel does not compile, or a tool of Triton's wheel is missing.
    """
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise CompileError("TRITON_INTERPRET is set, so nothing can be compiled: unset it")
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    function = getattr(importlib.import_module(launch.module), launch.name)
    names = [name for name, _ in launch.signature]
    attrs = {(names.index(name),): ALIGNED for name in launch.aligned}
    source = ASTSource(fn=function, signature=dict(launch.signature), constexprs=dict(launch.constexprs), attrs=attrs)
    options: dict[str, Any] = {"num_warps": launch.num_warps, "enable_fp_fusion": launch.fused}
    if launch.maxnreg is not None:
        options["maxnreg"] = launch.maxnreg
    try:
        compiled: Any = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    except Exception as error:  # of many kinds, and not all of them can be sent between processes
        said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise CompileError(f"{launch.name} does not compile for sm_{capability} ({said}): mend the kernel") from None
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(compiled.asm["cubin"])
        usage, code = _tool("cuobjdump", cubin, "-res-usage"), _tool("nvdisasm", cubin, "-c", "-ndf")
    registers, stack = re.search(r"REG:(\d+)", usage), re.search(r"STACK:(\d+)", usage)
    if registers is None or stack is None:
        raise CompileError(f"cuobjdump told no register count for {launch.name}: {usage.strip()[:200]!r}")
    exp2, per_pixel = exp2_loop(code)
    return Cost(
        registers=int(registers[1]),
        stack=int(stack[1]),
        shared=compiled.metadata.shared,
        barriers=len(re.findall(r"\bBAR\.", code)),
        vector_loads=len(re.findall(r"\bLDG\.E(?:\.\w+)*\.128\b", code)),
        exp2=exp2,
        per_pixel=per_pixel,
    )


def _tool(name: str, cubin: Path, *options: str) -> str:
    """What a program of Triton's wheel prints about a compiled kernel."""
    import triton

    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    try:
        command = [path, *options, cubin]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=TOOL_TIMEOUT)
    except (OSError, subprocess.SubprocessError) as error:
        raise CompileError(f"{path} does not run ({error}): reinstall triton") from error
    return done.stdout


def exp2_loop(code: str) -> tuple[int, float]:
    """Exponentials in the loop that blends, and its instructions for each; (0, 0) when no loop has any.

    A loop is what a branch backwards spans. Of the loops with exponentials that hold no other such loop, it is the one
    with the most of them: shorter ones finish what unrolling leaves over. Every instruction counts, also those under a
    predicate.
    """
    lines: list[tuple[int, str]] = []  # address, instruction
    places: dict[str, int] = {}  # address of each label
    waiting: list[str] = []
    for line in code.splitlines():
        if label := _LABEL.match(line.strip()):
            waiting.append(label[1])
        elif instruction := _LINE.match(line):
            places.update(dict.fromkeys(waiting, int(instruction[1], 16)))
            waiting.clear()
            lines.append((int(instruction[1], 16), instruction[2].strip()))
    loops: dict[tuple[int, int], tuple[int, int]] = {}  # first and last address; exponentials, instructions
    for end, text in lines:
        branch = _BRANCH.search(text)
        start = places.get(branch[1], end + 1) if branch else end + 1
        if start < end:
            body = [text for address, text in lines if start <= address <= end]
            exp2 = sum("MUFU.EX2" in text for text in body)
            if exp2:
                loops[start, end] = exp2, len(body)
    inner = [
        counts
        for span, counts in loops.items()
        if not any(span != other and span[0] <= other[0] and other[1] <= span[1] for other in loops)
    ]
    if not inner:
        return 0, 0.0
    exp2, length = max(inner)
    return exp2, length / exp2
