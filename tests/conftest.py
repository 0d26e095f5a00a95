import ctypes
import gc
import os
import sys
from pathlib import Path

import jax
import pytest

# The suite compiles many small programs and runs each of them once or twice. Processes that tests start do the same.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
jax.config.update("jax_disable_most_optimizations", True)
# What pytest compiled once is read from the virtual environment, and not kept in memory for ever.
jax.config.update("jax_compilation_cache_dir", str(Path(sys.prefix) / "jax-cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
# Devices to shard over; what is not sharded runs on the first one.
jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture(autouse=True, scope="module")
def forgets():
    """Each file of tests leaves the memory as it found it: glibc would keep some hundred MB for each."""
    yield
    jax.clear_caches()
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


@pytest.fixture
def optimized():
    """Compile as users do."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def one_device(monkeypatch):
    """What trains on all devices has one."""
    device = jax.devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda: device)
