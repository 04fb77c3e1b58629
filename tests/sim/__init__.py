"""Deterministic simulation of the whole commit protocol on the project's own code; see docs/simulation.md."""
