"""A made-up web shop, as a source of events to look at and to measure with."""
