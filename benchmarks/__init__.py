"""Measurements of the provider beside what people would use instead; ``python -m benchmarks`` runs them."""
