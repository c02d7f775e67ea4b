"""Objects in a directory, local or remote."""
