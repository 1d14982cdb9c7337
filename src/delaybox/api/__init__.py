"""The front ends: they parse, call the service and render, and have no rules of their own."""
