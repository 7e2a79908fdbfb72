"""Run code of a page in a process of its own, as a reader would who starts Python and pastes one block.

A server process that has imported torch, and nothing of this project, is forked for each block: a new interpreter would
spend seconds on importing torch and transformers again.
"""

import os
import sys
from multiprocessing import get_context
from pathlib import Path
from traceback import print_exc

PRELOADED = ["torch", "transformer_lens", "pandas", "matplotlib.pyplot"]
SECONDS = 600


def _execute(code: str, name: str, folder: str, log: str) -> None:
    """Run code in a folder; write what it prints, and a traceback if it fails, to a file."""
    os.chdir(folder)
    sys.path.insert(0, folder)
    with open(log, "w", encoding="utf-8") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
        try:
            assert not [module for module in sys.modules if module.split(".")[0] == "emg_lens"], "not a fresh process"
            exec(compile(code, name, "exec"), {"__name__": "__main__"})
        except BaseException:
            print_exc()
            sys.stderr.flush()
            os._exit(1)
        sys.stdout.flush()
        os._exit(0)


def run_alone(code: str, name: str, folder: Path) -> tuple[bool, str]:
    """Return whether code runs without an error in a process of its own, and what it prints.

    Args:
        code: The code of a block.
        name: Name of the block, for tracebacks.
        folder: The working folder.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    log = folder / "printed.log"
    process = context.Process(target=_execute, args=(code, name, str(folder), str(log)))
    process.start()
    process.join(SECONDS)
    if process.is_alive():
        process.kill()
        return False, f"{name} ran longer than {SECONDS} s"
    return process.exitcode == 0, log.read_text(encoding="utf-8")
