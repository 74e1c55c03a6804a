"""Graphs of any size: read once into a folder of arrays, which a process maps."""
