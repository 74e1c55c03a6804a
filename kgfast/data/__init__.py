"""Graphs: reading, checking, caching and saving them."""

from kgfast.data.checks import DataReport, InversePair
from kgfast.data.graph import KnowledgeGraph

__all__ = ["DataReport", "InversePair", "KnowledgeGraph"]
