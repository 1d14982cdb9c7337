"""Tasks taken in from a Redis channel."""
