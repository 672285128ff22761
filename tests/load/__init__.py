"""`make load`: mixed traffic through the edge, open loop, and what became of it (README.md here)."""
