"""Programs as processes of their own, which can be interrupted wherever the tests run."""

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
# A process in the background of a script ignores Ctrl-C, and so do those that it starts.
RUN = (
    "import runpy, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); del sys.argv[0]; "
    "runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
)


def start(module, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", RUN, module, *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(condition, *processes):
    """That these processes bring about."""
    deadline = time.monotonic() + 600
    while not condition():
        assert all(process.poll() is None for process in processes) and time.monotonic() < deadline
        time.sleep(0.05)


def finish(process):
    """Its status, as shells have it, and what it said; nothing of it is a traceback or an abort."""
    stdout, stderr = process.communicate(timeout=1200)
    assert not any(word in stderr for word in ("Traceback", "FATAL", "Exception")), stderr[-3000:]
    status = process.returncode
    return status if status >= 0 else 128 - status, stdout, stderr
