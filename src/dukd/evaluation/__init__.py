"""How good, and how fast, a network is."""
