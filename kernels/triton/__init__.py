"""Triton kernels: formulae in scores.py, objectives.py and updates.py, tiles in tiles.py, one file for each op or family of ops."""
