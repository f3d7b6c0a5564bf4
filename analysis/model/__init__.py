"""A model, its nodes, positions and norms: what can be read and edited."""
