"""How Ollama reads the name of a model: letters' case does not count, and a missing tag means `latest`."""


def full_name(name: str) -> str:
    """`Smollm2` → `smollm2:latest`."""
    folded = name.lower()
    return folded if ":" in folded else f"{folded}:latest"
