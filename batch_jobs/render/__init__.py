"""Rows to requests: prompt modules, the process pool, equal requests as one item, bodies for shards."""
