"""The real servers that tests run against: Apache Kafka, versitygw and Redis, on 127.0.0.1, in processes of their own."""
