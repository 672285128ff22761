"""What a person sees of the stack."""

from msgspec.structs import replace

from deploy.local.finding import Check
from deploy.local.report import check_lines, status_table, up_lines
from deploy.local.stack import PartStatus, Status

AUTH = PartStatus(
    name="auth",
    state="ready",
    health="ok",
    port=50051,
    pid=12,
    rss_bytes=70 << 20,
    restarts=1,
    since=1000.0,
    log="/l",
)
MIGRATE = PartStatus(
    name="migrate",
    state="done",
    health="ok",
    port=None,
    pid=None,
    rss_bytes=0,
    restarts=0,
    since=1000.0,
    log="/l",
)


def test_a_running_stack_is_a_table_that_lines_up() -> None:
    status = Status(
        running=True,
        ready=True,
        home="/h",
        edge="http://127.0.0.1:8080",
        model_source="embedded",
        supervisor_pid=3,
        parts=(AUTH, MIGRATE),
        total_rss_bytes=90 << 20,
    )
    assert list(status_table(status, now=1000.0 + 2 * 3600)) == [
        "part     state  port   pid  health  MB  restarts  for",
        "auth     ready  50051  12   ok      70  1         2 h",
        "migrate  done   -      -    ok      0   0         2 h",
        "",
        "ready at http://127.0.0.1:8080, models: embedded",
        "memory: 90 MB (pss), with the supervisor (pid 3); home: /h",
    ]


def test_an_up_says_where_prometheus_is_or_why_it_is_not_there() -> None:
    edge = "http://127.0.0.1:8080"
    plain = Status(running=True, ready=True, home="/h", edge=edge, parts=(AUTH,))
    observed = replace(plain, parts=(AUTH, replace(AUTH, name="prometheus", port=9090)))
    assert list(up_lines(plain, was_up=True, observes=False)) == [f"already up: {edge}"]
    assert list(up_lines(observed, was_up=False, observes=True)) == [
        f"up: {edge}",
        "prometheus: http://127.0.0.1:9090",
    ]
    (_, said) = up_lines(plain, was_up=True, observes=True)
    assert "`make up OBSERVE=1`" in said


def test_no_stack_is_one_line_that_says_how_to_get_one() -> None:
    status = Status(running=False, ready=False, home="/h")
    assert list(status_table(status)) == ["not running (home: /h); start it with `make up`"]


def test_a_finding_comes_with_its_mend() -> None:
    assert list(check_lines(Check(name="disk", finding="9 GB free"))) == ["ok   disk        9 GB free"]
    assert list(check_lines(Check(name="secrets", ok=False, finding="open", mend="chmod 600 x"))) == [
        "BAD  secrets     open",
        "                 run: chmod 600 x",
    ]
