"""What a partition does with a batch: duplicates, rollups, watermarks, the ledger, the saved state."""
