"""REST as Ollama's and OpenAI's clients know it, served from gRPC methods that pass bodies verbatim (docs/rest.md)."""
