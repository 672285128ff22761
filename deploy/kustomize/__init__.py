"""The chart as kustomize has it: a base, and overlays that change it. What is here is made from the chart (README.md)."""
