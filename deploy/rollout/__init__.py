"""Brings a new version of a service in, a share of the calls at a time, and takes it back when it is worse."""
