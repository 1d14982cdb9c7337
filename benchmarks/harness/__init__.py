"""What every scenario shares: real servers, child processes, figures, and how they are shown."""
