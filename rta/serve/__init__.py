"""The HTTP edge: events in, questions answered, definitions, operation, the live page."""
