"""The object store: the manifest chain, the catalog, the Delta tables, maintenance and audit."""
