"""Data: registry fields, neighbour-aware loading."""
