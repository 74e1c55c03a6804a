"""Datasets by name: fetched from where their authors publish them, checked, unpacked into a cache."""
