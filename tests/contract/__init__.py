"""Contract suites: one per edge, run on every implementation of it."""
