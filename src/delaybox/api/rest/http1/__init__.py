"""HTTP/1.1 on one event loop: heads and bodies read strictly, connections counted, and a reserve of them for probes."""
