"""Benchmarks: DelayBox beside the bare Redis commands that are its floor and beside its peers, in one run."""
