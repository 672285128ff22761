"""More than one process: one that decides (the head), and others that carry the streams (workers).

docs/decisions/0013-processes.md says why it is so.
"""
