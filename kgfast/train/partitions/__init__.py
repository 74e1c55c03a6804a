"""Entity tables larger than memory: on disk in partitions, of which a few are in memory at a time (tables=partitioned).

The page is docs/large_graphs.md.
"""
