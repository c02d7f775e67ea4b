"""Benchmarks of the provider and its alternatives; ``python -m benchmarks`` runs them."""
