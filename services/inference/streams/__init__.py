"""Streams that outlive their readers: read again, shared, followed from other replicas, and taken over."""
