"""Benchmarks: ceilings of the machine, every op against them, two commits, and other libraries."""
