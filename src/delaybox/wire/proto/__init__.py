"""The messages of delaybox.v1 <-> core. The checks are those of ``wire/json``, in the same words."""
