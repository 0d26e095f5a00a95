"""The preconditioner P of an update: its formulas, the scalers that publish it, the mark that carries it."""
