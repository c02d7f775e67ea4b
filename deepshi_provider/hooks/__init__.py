"""HTTP to Deepshi."""
