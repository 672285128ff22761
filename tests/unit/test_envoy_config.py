"""The edge's settings: defaults that fit the local stack, replicas by list, mistakes by name."""

import pytest

from deploy.envoy.config import Edge, Endpoint, Green
from services.common.config import ConfigError, Environment

PLAIN = {"OLLAMESH_INSECURE_INSIDE": "true"}


def read(**variables: str) -> Edge:
    inside = {f"OLLAMESH_TLS_{name}": f"/inside/{name}" for name in ("CERT", "KEY", "CA")}
    usual = {**inside, "OLLAMESH_EDGE_FOLDER": "/edge"} if PLAIN.keys().isdisjoint(variables) else {}
    env = Environment({**usual, **variables})
    edge = Edge.read(env)
    env.check()
    return edge


def test_without_settings_it_fits_the_local_stack() -> None:
    edge = read()
    assert (edge.listen, edge.admin_port) == (Endpoint("127.0.0.1", 8080), 9901)
    assert edge.upstreams == {
        "auth": (Endpoint("127.0.0.1", 50051),),
        "agent": (Endpoint("127.0.0.1", 50052),),
        "inference": (Endpoint("127.0.0.1", 50053),),
        "sandbox": (Endpoint("127.0.0.1", 50054),),
    }
    assert edge.cors_origins == ("http://localhost:*", "http://127.0.0.1:*")


TLS = {
    "OLLAMESH_EDGE_CERT_FILE": "/tls/edge.pem",
    "OLLAMESH_EDGE_KEY_FILE": "/tls/edge.key",
    "OLLAMESH_EDGE_FOLDER": "/edge",
}


@pytest.mark.parametrize(
    ("bind", "plain", "secure", "reach"),
    [
        ("0.0.0.0", "127.0.0.1", "0.0.0.0", "127.0.0.1"),
        ("[::]", "::1", "::", "::1"),
        ("10.0.0.5", "127.0.0.1", "10.0.0.5", "10.0.0.5"),
        ("127.0.0.2", "127.0.0.2", "127.0.0.2", "127.0.0.2"),
    ],
)
def test_plain_text_stays_on_loopback_and_services_are_reached_where_they_listen(
    bind: str, plain: str, secure: str, reach: str
) -> None:
    edge = read(OLLAMESH_BIND=bind, OLLAMESH_AGENT_PORT="6000", **TLS)
    assert edge.tls is not None
    assert (edge.listen, edge.tls.listen) == (Endpoint(plain, 8080), Endpoint(secure, 8443))
    assert edge.upstreams["agent"] == (Endpoint(reach, 6000),)


def test_plain_text_elsewhere_takes_somebody_who_says_that_it_is_insecure() -> None:
    with pytest.raises(ConfigError) as caught:
        read(OLLAMESH_BIND="0.0.0.0")
    assert caught.value.mistakes[0].startswith("OLLAMESH_BIND is not a loopback address")
    assert read(OLLAMESH_BIND="0.0.0.0", OLLAMESH_INSECURE_EDGE="true").listen.host == "0.0.0.0"


@pytest.mark.parametrize(
    ("variables", "missing"),
    [
        ({"OLLAMESH_EDGE_CERT_FILE": "/c", "OLLAMESH_EDGE_FOLDER": "/e"}, "OLLAMESH_EDGE_KEY_FILE"),
        ({"OLLAMESH_EDGE_KEY_FILE": "/k", "OLLAMESH_EDGE_FOLDER": "/e"}, "OLLAMESH_EDGE_CERT_FILE"),
        ({"OLLAMESH_EDGE_CERT_FILE": "/c", "OLLAMESH_EDGE_KEY_FILE": "/k"}, "OLLAMESH_EDGE_FOLDER"),
        ({"OLLAMESH_EDGE_CLIENT_CA": "/ca"}, "OLLAMESH_EDGE_CLIENT_CA"),
        ({"OLLAMESH_EDGE_DISCOVERY": "files"}, "OLLAMESH_EDGE_FOLDER"),
        ({"OLLAMESH_EDGE_DISCOVERY": "guess"}, "OLLAMESH_EDGE_DISCOVERY"),
        ({"OLLAMESH_OTLP_TARGET": "collector"}, "OLLAMESH_OTLP_TARGET"),
    ],
)
def test_what_goes_together_is_given_together(variables: dict[str, str], missing: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(**PLAIN, **variables)
    assert [mistake.split()[0] for mistake in caught.value.mistakes] == [missing]


def test_certificates_inside_need_a_folder_to_be_followed() -> None:
    with pytest.raises(ConfigError) as caught:
        read(OLLAMESH_EDGE_FOLDER="")
    assert [mistake.split()[0] for mistake in caught.value.mistakes] == ["OLLAMESH_EDGE_FOLDER"]


def test_replicas_are_listed() -> None:
    edge = read(OLLAMESH_INFERENCE_REPLICAS="inference-0:50053, 10.0.0.2:50054,[::1]:7")
    assert edge.upstreams["inference"] == (
        Endpoint("inference-0", 50053),
        Endpoint("10.0.0.2", 50054),
        Endpoint("::1", 7),
    )


def test_mistakes_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        read(
            OLLAMESH_EDGE_PORT="http",
            OLLAMESH_ADMIN_PORT="70000",
            OLLAMESH_AUTH_REPLICAS="auth",
            OLLAMESH_AGENT_REPLICAS="agent:0",
            OLLAMESH_SANDBOX_REPLICAS="sandbox:1,",
            OLLAMESH_INFERENCE_PORT="0",
        )
    assert sorted(mistake.split()[0] for mistake in caught.value.mistakes) == [
        "OLLAMESH_ADMIN_PORT",
        "OLLAMESH_AGENT_REPLICAS",
        "OLLAMESH_AUTH_REPLICAS",
        "OLLAMESH_EDGE_PORT",
        "OLLAMESH_INFERENCE_PORT",
        "OLLAMESH_SANDBOX_REPLICAS",
    ]


def test_the_processes_of_the_inference_service_are_balanced_over() -> None:
    ports = [place.port for place in read(OLLAMESH_INFERENCE_PROCESSES="3").upstreams["inference"]]
    assert ports == [50053, 50063, 50073]
    edge = read(OLLAMESH_INFERENCE_PROCESSES="2", OLLAMESH_INFERENCE_PORTS="7001, 7002")
    assert edge.upstreams["inference"] == (Endpoint("127.0.0.1", 7001), Endpoint("127.0.0.1", 7002))
    elsewhere = read(OLLAMESH_INFERENCE_PROCESSES="2", OLLAMESH_INFERENCE_REPLICAS="gpu-1:1")
    assert elsewhere.upstreams["inference"] == (Endpoint("gpu-1", 1),)


def test_a_second_set_of_replicas_has_no_calls_until_it_is_given_some() -> None:
    waiting = read(OLLAMESH_AGENT_GREEN_REPLICAS="agent-green:50052").greens
    assert waiting == {"agent": Green(replicas=(Endpoint("agent-green", 50052),), percent=0)}
    some = read(OLLAMESH_AGENT_GREEN_REPLICAS="agent-green:50052", OLLAMESH_AGENT_GREEN_PERCENT="5").greens
    assert some["agent"].percent == 5


def test_calls_for_a_set_that_is_not_there_are_a_mistake() -> None:
    with pytest.raises(ConfigError, match="OLLAMESH_AGENT_GREEN_REPLICAS is not set"):
        read(OLLAMESH_AGENT_GREEN_PERCENT="5")
