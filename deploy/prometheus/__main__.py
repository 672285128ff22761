"""`python -m deploy.prometheus`: write rules/slo.yml anew, from slos.yml."""

from deploy.prometheus.files import SLO_RULES, SLOS
from deploy.prometheus.slo_rules import read, rules

SLO_RULES.write_text(rules(read(SLOS.read_text())))
