"""Batches: many requests in one job."""
