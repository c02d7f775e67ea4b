"""What was attempted and what came of it, who is alive, and what was spent."""
