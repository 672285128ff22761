"""Ollama's API as types and pure functions: no sockets, no clock, no process.

The embedded runtime and the test suite's fake are both made of these, so a shape is written down once.
"""
