"""Pure domain: tasks, due times, ids, priorities, retries, partitions, errors.

Nothing here does I/O, reads a clock or draws a random number: time and randomness are arguments.
"""
