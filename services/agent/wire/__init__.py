"""Protobuf on one side, domain types on the other."""
