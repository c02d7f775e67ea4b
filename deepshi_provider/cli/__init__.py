"""The command line. It reads the catalog and the object store, and never sends a paid request."""
