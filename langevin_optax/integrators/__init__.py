"""Thermodynamic integrators: one file per stochastic differential equation."""
