"""Random questions over random events, asked in every language and compared with DuckDB on the events."""
