"""The command line. It asks for the catalog, which is free, and sends nothing that costs money."""
