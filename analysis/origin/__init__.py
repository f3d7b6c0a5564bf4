"""Where a vector comes from, and how much of it is needed."""
