"""Toy models with a known circuit: their tasks, the recipe that trains them, and the trained ones that are shipped."""
