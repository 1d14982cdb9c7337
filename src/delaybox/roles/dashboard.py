"""The dashboard of a node on a port of its own, away from the process that takes tasks.

It is the REST process with nothing but the pages and the probes.
"""

from __future__ import annotations

from delaybox.api.rest.settings import ApiSettings
from delaybox.processes import child
from delaybox.roles.rest import serve

if __name__ == "__main__":
    child.main(ApiSettings, serve)
