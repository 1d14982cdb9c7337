"""gRPC: a process of its own that serves delaybox.v1, health and reflection."""
