"""The command line. It asks for the catalog, reads what is stored, and sends nothing that costs money."""
