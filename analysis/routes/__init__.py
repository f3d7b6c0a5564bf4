"""Which way an effect takes: paths, edges, positions, self-repair."""
