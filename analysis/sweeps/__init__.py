"""Randomized injection sweeps: what happens when random nodes get a part of a steering vector."""
