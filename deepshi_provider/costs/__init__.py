"""Cost sheets and their sums."""
