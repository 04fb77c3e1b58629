"""SQL as a question: what a statement may be, which tables and times it reads, and which rollup answers it. No engine, no I/O."""
