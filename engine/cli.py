"""The command `lyra`: each subcommand is a module of `engine/commands`, imported when it is called."""

import atexit
import gc
import importlib
import os
import sys
from typing import Any, NoReturn

from .command_line import guarded
from .errors import InputError

COMMANDS = {
    "convert": "Write scenes in another format, merged, cropped, filtered, in other axes.",
    "edit": "Select, delete, move, recolour, duplicate, merge and split splats by a script.",
    "generate": "Make a scene of a picture, a video or a folder of posed pictures.",
    "info": "Tell what a scene file holds, where it came from and what a conversion would cost.",
    "lod": "Build a level-of-detail tree over a scene of any size, or of the levels that it has.",
    "prior": "Train, distil and measure the prior that makes scenes of pictures.",
    "redact": "Remove or blur what lies in a region or inside image masks, and check that it is gone.",
    "strip": "Copy images without GPS, camera, time and all other metadata.",
}


def run() -> NoReturn:
    """The console script, in a process of its own.

    Threads that wait for each other sleep (unless the user says otherwise): where other programs run too, they would
    keep the cores from those that work. The end leaves out the interpreter's teardown: to look for garbage among all
    that torch and Numba have made takes longer than many a command.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when OpenMP is loaded
    code = main()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 when all went well, 2 when what was given cannot be used."""
    given = sys.argv[1:] if arguments is None else arguments
    if not given or given[0] in ("-h", "--help"):
        print(_help())
        return 0 if given else 2
    return guarded(f"lyra {given[0]}" if given[0] in COMMANDS else "lyra", lambda: _run(given[0], given[1:]))


def _run(name: str, arguments: list[str]) -> None:
    if name not in COMMANDS:
        raise InputError(f"{name!r} is no command: give {', '.join(COMMANDS)}")
    _imported(name).command(arguments)


def _imported(name: str) -> Any:
    """The module of a command; what it imports, a million objects, is never looked at for garbage."""
    gc.disable()
    try:
        return importlib.import_module(f".commands.{name}", __package__)
    finally:
        gc.freeze()
        gc.enable()


def _help() -> str:
    width = max(map(len, COMMANDS))
    rows = [f"  {name:<{width}}  {told}" for name, told in COMMANDS.items()]
    return "\n".join(["usage: lyra COMMAND ...", "", *rows, "", "lyra COMMAND --help tells more."])


if __name__ == "__main__":  # accelerate launch -m lyra.engine.cli
    run()
