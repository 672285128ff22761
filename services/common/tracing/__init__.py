"""Spans: what a call went through, and where its time went, sent as OTLP to whoever collects it.

Spans are recorded here and not by OpenTelemetry's SDK, which takes ten times as long for each (decision: tracing). What
is of OpenTelemetry are the format, the names (names.py) and the way contexts travel.
"""
