"""Druid's native queries: JSON documents in, polars expressions over frames, JSON out. No I/O, no Ray, no HTTP."""
