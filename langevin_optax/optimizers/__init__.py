"""The Langevin term on an optimiser: as a link of a chain, by the engine, and under the twelve names."""
