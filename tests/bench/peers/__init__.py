"""What the benchmark sets the gateway beside. Each peer has a virtual environment of its own, by its own lock."""
