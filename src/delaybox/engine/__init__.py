"""What makes tasks fire: one long-running service a file, all with the same start and stop."""
