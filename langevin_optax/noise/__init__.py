"""The noise: what is drawn, from which key, and how fast."""
