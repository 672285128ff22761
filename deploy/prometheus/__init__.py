"""What Prometheus scrapes, the rules by which it alerts, and whom Alertmanager tells."""
