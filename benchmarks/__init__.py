"""Benchmarks: methods x data sets x seeds, see README.md."""
