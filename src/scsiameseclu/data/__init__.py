"""Data: registry fields, neighbour-aware loading, data sets."""
