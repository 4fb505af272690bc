"""Registry fields of scvi-tools, and loading of mini-batches with the neighbours of their cells."""
