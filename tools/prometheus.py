"""`python -m tools.prometheus`: Prometheus, Alertmanager and what belongs to them, from this machine's own Debian.

They go to `.tools/prometheus/`. A folder that OLLAMESH_PROMETHEUS_BIN names comes first: it holds the programs under
the names that their authors give them, as in their own archives.
"""

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from tools.debian import Program, Unobtainable, obtain

# Debian's builds read from places that are root's what is in other builds' programs: Alertmanager's templates, Prometheus'
# pages. These read them below the folder that they are started in, which is to be their own.
TEMPLATES = (b"/usr/share/prometheus/alertmanager", b"./" * 12 + b"/templates")
PAGES = (b"/usr/share/prometheus/web/", b"./" * 11 + b"web/")
SCRIPTS = (
    *("libjs-bootstrap4", "libjs-d3", "libjs-eonasdan-bootstrap-datetimepicker", "libjs-jquery"),
    *("libjs-jquery-hotkeys", "libjs-moment", "libjs-moment-timezone", "libjs-mustache", "libjs-popper.js"),
    *("libjs-rickshaw", "fonts-glyphicons-halflings"),
)
VARIABLE = "OLLAMESH_PROMETHEUS_BIN"
FETCHED = Path(__file__).resolve().parents[1] / ".tools/prometheus"
PROGRAMS: Mapping[str, Program] = {
    "prometheus": Program("prometheus", "usr/bin/prometheus", edit=PAGES),
    "promtool": Program("prometheus", "usr/bin/promtool"),
    "alertmanager": Program("prometheus-alertmanager", "usr/bin/prometheus-alertmanager", edit=TEMPLATES),
    "amtool": Program("prometheus-alertmanager", "usr/bin/amtool"),
    "postgres_exporter": Program("prometheus-postgres-exporter", "usr/bin/prometheus-postgres-exporter"),
    "redis_exporter": Program("prometheus-redis-exporter", "usr/bin/prometheus-redis-exporter"),
}
DATA: Mapping[str, Program] = {
    "templates": Program("prometheus-alertmanager", "usr/share/prometheus/alertmanager", is_data=True),
    "web": Program("prometheus", "usr/share/prometheus/web", is_data=True, needs=SCRIPTS),
}
ADVICE = (
    "get Prometheus, Alertmanager and their PostgreSQL and Redis exporters as their authors say, put "
    f"{', '.join(PROGRAMS)} into one folder, and name it in {VARIABLE}"
)


def folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Where the programs are, or would be."""
    named = environment.get(VARIABLE)
    return Path(named).absolute() if named else FETCHED


def missing(place: Path, names: Iterable[str] = PROGRAMS) -> list[str]:
    return [name for name in names if not os.access(place / name, os.X_OK)]


def main() -> None:
    place = folder()
    lacking = missing(place)
    if lacking and place != FETCHED:
        sys.exit(f"prometheus: {place}, which {VARIABLE} names, lacks {', '.join(lacking)}")
    if lacking:
        data = {name: DATA[name] for name in DATA if not (place / name).exists()}
        wanted = {name: PROGRAMS[name] for name in lacking} | data
        try:
            obtain({place / name: program for name, program in wanted.items()})
        except Unobtainable as error:
            sys.exit(f"prometheus: {error}; {ADVICE}")
    print(f"prometheus: {', '.join(PROGRAMS)} are in {place}")


if __name__ == "__main__":
    main()
