"""Object storage: directories of objects, local or remote."""
