"""Logs: one JSON object a line, of bounded size and number, with nothing secret in it.

An event is a constant name plus fields. Fields are chosen one by one where they are logged: never a prompt, a token, a
secret or a request. What is here beside that is for the day on which somebody forgets, or a library says more than it
should.
"""
