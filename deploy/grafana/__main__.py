"""`python -m deploy.grafana`: write dashboards/*.json anew."""

from deploy.grafana.files import write

write()
