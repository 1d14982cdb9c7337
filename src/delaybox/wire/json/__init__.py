"""The JSON of ``/v1`` <-> domain. Pure: no I/O; the clock is an argument where one is needed."""
