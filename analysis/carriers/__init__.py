"""Which nodes carry an effect: methods that all return one effect table."""
