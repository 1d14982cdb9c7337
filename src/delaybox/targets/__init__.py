"""What a task type delivers to: one file a target, none imports another."""
