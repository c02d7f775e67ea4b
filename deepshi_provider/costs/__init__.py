"""What it cost: cost sheets and their sums."""
