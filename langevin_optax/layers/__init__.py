"""Which layers come first: their order in a model, and masks that select them."""
