"""Child processes of a node: how it starts, watches and stops them, and what each of them does at its own start."""
