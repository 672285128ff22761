"""The embedded model runtime: Ollama's wire over llama.cpp, for machines that have no Ollama.

    wire/     what Ollama's API says: requests, replies, options, durations, names. Pure.
    api/      the routes, over whatever implements ports.Backend: this runtime or the suite's fake.
    engine    requests to llama.cpp and back; residency loads, keeps and unloads; runner is one process.

README.md lists what of Ollama's API is implemented and what is not.
"""
