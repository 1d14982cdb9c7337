"""What DelayBox is measured beside: bare Redis commands, a single sorted set, BullMQ."""
