"""Aggregators and the coordinator: loops and lifecycles around the fold and the commit protocol."""
