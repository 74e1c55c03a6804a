"""Triton kernels: formulae in scores.py, objectives.py and updates.py, tiles in tiles.py, a file for each family."""
