import os

import jax
import pytest

# The suite compiles many small programs and runs each of them once or twice. Processes that tests start do the same.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
jax.config.update("jax_disable_most_optimizations", True)
# Devices to shard over; what is not sharded runs on the first one.
jax.config.update("jax_num_cpu_devices", 8)


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
