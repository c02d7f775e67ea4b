"""Example DAGs; each runs against the emulator, unchanged."""
