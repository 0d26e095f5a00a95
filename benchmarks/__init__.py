"""What Langevin costs: times, compile times and memory, against Optax and the peers. `python -m benchmarks`."""
