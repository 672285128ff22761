"""Ollamesh on one machine with Docker: compose.yaml, and what it needs beforehand (prepare.py)."""
