"""Render a chart with each of several sets of values: `render.py CHART < [{"values", "name", "namespace"}]`.

Of each comes `{"documents": {file: text}}`, or `{"error": text}`.
"""

import json
import sys
from importlib import import_module
from typing import Any

helm: Any = import_module("helm_python")  # Not there for those who check types.


def main() -> None:
    rendered = []
    with helm.Chart.load(sys.argv[1]) as chart:
        for job in json.load(sys.stdin):
            try:
                files = chart.render(job["values"], name=job["name"], namespace=job["namespace"])
                rendered.append({"documents": files})
            except helm.HelmError as error:
                rendered.append({"error": str(error)})
    json.dump(rendered, sys.stdout)


if __name__ == "__main__":
    main()
