"""REST over raw ASGI, served by a process of its own so that bursts of requests do not disturb punctuality."""
