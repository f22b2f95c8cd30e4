"""dirprune inside the libraries of the field: one file for each, imported by its own name."""
