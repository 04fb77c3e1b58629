"""The durable log: the interface (`base`) and its implementations. What records mean is nothing to it."""
