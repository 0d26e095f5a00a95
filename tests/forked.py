"""Processes of `examples.distributed` that start fast: forks of one that has imported everything and run nothing."""

import multiprocessing
import os
import resource
import sys
import traceback
from pathlib import Path

import jax

from examples.distributed.__main__ import main

_CONTEXT = multiprocessing.get_context("forkserver")


def start(arguments, log: Path, *, devices: int = 1, cache: Path | None = None, file_limit: int | None = None):
    """The command with these arguments; what it prints goes to ``log``.

    Programs compiled before come from ``cache``. No file gets longer than ``file_limit``.
    """
    multiprocessing.set_forkserver_preload([__name__])
    process = _CONTEXT.Process(
        target=_run, args=([str(a) for a in arguments], str(log), devices, cache, file_limit), daemon=True
    )
    process.start()
    return process


def finish(process, log: Path, code: int = 0) -> str:
    process.join(timeout=240)
    text = log.read_text()
    assert process.exitcode == code, text[-3000:]
    return text


def _run(arguments, log, devices, cache, file_limit):
    with open(log, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if file_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    jax.config.update("jax_num_cpu_devices", devices)
    if cache is not None:
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    try:
        main(arguments)
    except SystemExit as error:
        print(error, file=sys.stderr, flush=True)
        os._exit(1)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(2)
    sys.stdout.flush()
    os._exit(0)
