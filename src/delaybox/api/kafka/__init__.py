"""Tasks from Kafka: topics whose records are scheduled. Parse, service, render: no rules of its own."""
