"""What survives frozen attention."""
