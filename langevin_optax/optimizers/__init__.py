"""The Langevin term on an optimiser: as a link of a chain, by the engine, and under the twelve names.

Each of the twelve is `langevin` of the Optax function of its name. A coordinate whose gradient has always been 0 is
called dead.
"""
