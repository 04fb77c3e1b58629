"""Druid SQL in, DuckDB SQL with Druid's meaning out."""
