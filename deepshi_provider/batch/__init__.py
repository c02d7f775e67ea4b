"""Many requests in one job."""
