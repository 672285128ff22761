"""The chart by Helm's own judgement: it has no findings, each set of values renders, and its version is the project's."""

import json
import tomllib
from pathlib import Path

import yaml

from deploy.check.charts import CHART, RENDER, RenderError, render, value_sets
from deploy.check.tools import ROOT, ran, tool


def check() -> list[str]:
    return [*linted(CHART), *_rendering(), *_versions()]


def linted(chart: Path) -> list[str]:
    done = ran(tool("python"), RENDER, chart, "--lint")
    if done.returncode != 0:
        return [f"Helm cannot read the chart: {line}" for line in done.stderr.strip().splitlines()[-1:]]
    return [f"Helm: {finding}" for finding in json.loads(done.stdout)]


def _rendering() -> list[str]:
    found = []
    for name, values in value_sets().items():
        try:
            render([values])
        except RenderError as error:
            found.append(f"{name}: {error}.")
    return found


def _versions() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    return [
        f"Chart.yaml: {field} is {chart[field]}, where the project is {project}."
        for field in ("version", "appVersion")
        if chart[field] != project
    ]
