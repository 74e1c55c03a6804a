"""Graphs: reading, checking, caching and saving them."""

from kgfast.data.findings import DataReport, InversePair
from kgfast.data.graph import KnowledgeGraph

__all__ = ["DataReport", "InversePair", "KnowledgeGraph"]
