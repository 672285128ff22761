"""`make deploy-check`: every offline check of what runs Ollamesh elsewhere (README.md here)."""
