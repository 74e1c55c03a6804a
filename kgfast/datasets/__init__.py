"""Graphs that come with the package: folders in the format that KnowledgeGraph.load reads."""
