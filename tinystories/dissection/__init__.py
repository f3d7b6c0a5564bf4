"""A steered run taken apart: exact secants, the two runs, forward parts, backward readouts, trees of paths."""
