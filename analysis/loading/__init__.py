"""A folder, a hub name or a bridge becomes a checked model."""
