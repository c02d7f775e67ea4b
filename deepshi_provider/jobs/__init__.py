"""Runs one request from a job to stored images and a manifest, for blocking and deferred tasks."""
