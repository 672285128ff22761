"""Ollama's routes, served over any ports.Backend."""
