"""Clients and workers that talk to Redis themselves, with no node in between.

``delaybox.client`` and ``delaybox.worker`` load it by name when an address leads to Redis, because it needs the
packages of a node (the extra ``redis``), and they do not.
"""
