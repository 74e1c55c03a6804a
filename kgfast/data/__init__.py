"""Graphs: reading, checking, caching, preparing and saving them."""

from kgfast.data.formats import Format, add_format
from kgfast.data.graph import KnowledgeGraph
from kgfast.data.prepared.prepare import prepare
from kgfast.data.report import DataReport, InversePair

__all__ = ["DataReport", "Format", "InversePair", "KnowledgeGraph", "add_format", "prepare"]
