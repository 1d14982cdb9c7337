"""The harness: oracle (log), checker, nemesis, proxy, server and node control, report."""
