"""What the Go original speaks: its REST bodies, the message on its channel, its sorted set of pending tasks."""
