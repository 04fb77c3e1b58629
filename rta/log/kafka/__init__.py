"""Apache Kafka as the log: topics of rta's own, whose records are the same Arrow batches as in the embedded log.

The modules: `settings` (where the brokers are, and how to get in), `session` (one connection to the cluster, errors in
rta's words), `reader`, `produce` and `writer`, `admin`. Built on kafka-python's connections; the reader asks brokers by
topic id, so that a topic which was deleted and made again under the same name is never read on by mistake. Nothing is
imported here: `settings` is wanted in processes that never speak to a broker.
"""
