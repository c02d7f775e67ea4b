"""Triggers: jobs that run in the triggerer."""
