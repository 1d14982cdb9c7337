"""Probes and metrics of a node on a port of their own, for all of its processes, whatever its roles.

It is the REST process with nothing but /livez, /readyz and /metrics.
"""

from __future__ import annotations

from delaybox.api.rest.settings import ApiSettings
from delaybox.processes import child
from delaybox.roles.rest import serve

if __name__ == "__main__":
    child.main(ApiSettings, serve)
