"""Druid's expression language: text → syntax tree → polars expressions of a known type."""
