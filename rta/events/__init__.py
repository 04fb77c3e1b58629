"""What an event is: datasources, decoding, identity, columns. Pure: bytes and times in, columns out."""
