"""Render a chart with each of several sets of values: `render.py CHART < [{"values", "name", "namespace"}]`.

Of each comes `{"documents": {file: text}}`, or `{"error": text}`. `render.py CHART --lint` lists what Helm finds wrong with the chart.
"""

import json
import sys
from importlib import import_module
from typing import Any

helm: Any = import_module("helm_python")  # Not there for those who check types.


WARNING = 2


def main() -> None:
    if "--lint" in sys.argv:
        json.dump(_findings(sys.argv[1]), sys.stdout)
        return
    rendered = []
    with helm.Chart.load(sys.argv[1]) as chart:
        for job in json.load(sys.stdin):
            try:
                files = chart.render(job["values"], name=job["name"], namespace=job["namespace"])
                rendered.append({"documents": files})
            except helm.HelmError as error:
                rendered.append({"error": str(error)})
    json.dump(rendered, sys.stdout)


def _findings(chart: str) -> list[str]:
    report = helm.lint(chart)
    told = [f"{each['path']}: {each['error']}" for each in report["messages"] if each["severity"] >= WARNING]
    return [*told, *report["errors"]]


if __name__ == "__main__":
    main()
