"""The only code that talks to Redis: keys, records, one typed method a script, and the scripts themselves."""
