"""Faults injected into a real rta on a real Kafka and a real bucket, under load; an oracle of its own judges at the end.

`plant` is the system with everything around it, `faults` what can be done to it, `campaign` a seeded run through all of them.
`make faults` runs long (`python -m tests.faults --help`), the suite runs each fault once and briefly.
"""
