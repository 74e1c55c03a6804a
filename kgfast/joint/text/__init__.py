"""Texts of a graph and of a corpus, as tokens."""
