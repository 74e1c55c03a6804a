"""Graphs: fetching, reading, checking, caching, preparing and saving them."""

from kgfast.data.formats import Format, add_format
from kgfast.data.graph import KnowledgeGraph
from kgfast.data.prepared.prepare import prepare
from kgfast.data.published.fetch import fetch
from kgfast.data.report import DataReport, InversePair

__all__ = ["DataReport", "Format", "InversePair", "KnowledgeGraph", "add_format", "fetch", "prepare"]
