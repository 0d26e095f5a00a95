import jax

# The suite compiles many small programs and runs each of them once or twice.
jax.config.update("jax_disable_most_optimizations", True)
