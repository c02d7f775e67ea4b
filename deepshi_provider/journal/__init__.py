"""Attempts and their outcomes, leases, and spending, in the object store."""
