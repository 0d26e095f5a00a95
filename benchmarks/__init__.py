"""What Langevin costs: times, compile times and memory, against Optax and the peers. `python -m benchmarks`."""

import os
import sys

# Before JAX makes an array: the accelerators that are compiled for are not those that it would find here.
if any(argument.partition("=")[0] == "--compiled" for argument in sys.argv):
    os.environ["JAX_PLATFORMS"] = "cpu"
