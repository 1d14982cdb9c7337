"""The engine, which makes tasks fire: one file for each long-running service, all with the same start and stop."""
