"""The pages that a node shows to browsers."""
