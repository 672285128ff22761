"""Pages for whoever is on call, and what can be checked of them."""
