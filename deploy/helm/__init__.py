"""The chart for Kubernetes (docs/kubernetes.md), and what an installation needs beside it."""
