"""Protobuf and JSON on one side, core's types on the other. Generated code is fenced off in ``gen/``."""
