"""The messages of delaybox.v1 <-> core. The checks are those of ``wire/v1``, in the same words."""
