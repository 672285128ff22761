"""The configuration that is printed: what Envoy accepts, and what it must say whoever edits it next.

Printed by a process, as `make up` has it printed, and read back as JSON.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from deploy.local.servers import envoy
from services.common.policy import POLICY, Access

Json = dict[str, Any]
SERVICES = ("auth", "agent", "inference", "sandbox")


# Where others than this machine reach it. Envoy looks at the files when it starts, not when it reads of them.
TLS = {
    "OLLAMESH_BIND": "10.0.0.5",
    "OLLAMESH_EDGE_CERT_FILE": "/tls/edge.pem",
    "OLLAMESH_EDGE_KEY_FILE": "/tls/edge.key",
    "OLLAMESH_EDGE_FOLDER": "/edge",
}
INSIDE = {
    "OLLAMESH_TLS_CERT": "/inside/tls.crt",
    "OLLAMESH_TLS_KEY": "/inside/tls.key",
    "OLLAMESH_TLS_CA": "/inside/ca.crt",
    "OLLAMESH_EDGE_FOLDER": "/edge",
}


def printed(*arguments: str, **variables: str) -> str:
    env = {"PATH": os.environ["PATH"], **INSIDE, **variables}
    done = subprocess.run(
        [sys.executable, "-m", "deploy.envoy", *arguments],
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.fixture(scope="module")
def text() -> str:
    return printed(**TLS)


@pytest.fixture(scope="module")
def config(text: str) -> Json:
    loaded: Json = json.loads(text)
    return loaded


@pytest.fixture(scope="module")
def public(config: Json) -> Json:
    """The public listener's connection manager."""
    listener = config["static_resources"]["listeners"][0]
    assert listener["name"] == "public"
    manager: Json = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return manager


@pytest.fixture(scope="module")
def routes(public: Json) -> list[Json]:
    (host,) = public["route_config"]["virtual_hosts"]
    found: list[Json] = host["routes"]
    return found


def route_of(path: str, routes: list[Json]) -> Json:
    """The first route that matches, as Envoy picks it."""
    for route in routes:
        match route["match"]:
            case {"path": exact} if exact == path:
                return route
            case {"prefix": prefix} if path.startswith(prefix):
                return route
            case {"safe_regex": {"regex": regex}} if re.fullmatch(regex, path):
                return route
    raise AssertionError(path)


def requirement(route: Json) -> str | None:
    """The service for which the route wants a token; None for none."""
    said = route["typed_per_filter_config"]["envoy.filters.http.jwt_authn"]
    assert said.get("disabled", False) is ("requirement_name" not in said)
    name: str | None = said.get("requirement_name")
    return name


def summary(route: Json) -> tuple[str, str, str, str | None]:
    action = route["route"]
    deadline: str = route["request_headers_to_add"][0]["header"]["value"]
    return action["cluster"], deadline, action["retry_policy"]["retry_on"], requirement(route)


INNER = [path for path, row in POLICY.items() if row.access is Access.SERVICE]
OURS = [path for path in POLICY if path.startswith("/ollamesh.") and path not in INNER]
SAFE = "connect-failure,refused-stream"


@pytest.mark.parametrize("path", OURS)
def test_every_method_has_its_route(path: str, routes: list[Json]) -> None:
    """Cluster, deadline, retries and token, from the method's name and the services' own policy."""
    rest, method = path.startswith("/ollamesh.compat."), path.rpartition("/")[2]
    service = "inference" if rest else path.split(".")[1]
    cluster = "auth_keys" if method == "GetJwks" else service
    watches, reads = method.startswith(("Watch", "Resume", "StreamBatch")), method.startswith(("Get", "List"))
    assert summary(route_of(path, routes)) == (
        cluster,
        "2S" if method == "GetHealth" else "3600S" if watches or rest else "300S",
        f"{SAFE},unavailable" if (watches or reads) and service != "sandbox" else SAFE,
        None if POLICY[path].access is Access.PUBLIC else service,
    )


@pytest.mark.parametrize("path", OURS)
def test_what_is_tried_again_is_tried_elsewhere_unless_one_replica_keeps_it(
    path: str, routes: list[Json]
) -> None:
    elsewhere = bool(route_of(path, routes)["route"]["retry_policy"].get("retry_host_predicate"))
    assert elsewhere is (not path.startswith("/ollamesh.sandbox.") or path.endswith("/Execute"))


@pytest.mark.parametrize("path", INNER)
def test_what_is_for_services_alone_is_not_there(path: str, routes: list[Json]) -> None:
    assert route_of(path, routes)["direct_response"] == {"status": 404}


@pytest.mark.parametrize(
    "path",
    ["/x", "/grpc.health.v1.Health/Check", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
     "/ollamesh.auth.v2.AuthService/Login", "/ollamesh.evil.v1.X/Y", "/ollamesh.auth.v1/../Login", "/healthz/x"],
)  # fmt: skip
def test_what_is_not_ours_is_answered_by_envoy(path: str, routes: list[Json]) -> None:
    found = route_of(path, routes)
    assert found.get("direct_response") == {"status": 404} or requirement(found) is not None


def test_the_root_says_what_the_clients_of_ollama_look_for(routes: list[Json]) -> None:
    said = {"status": 200, "body": {"inline_string": "Ollama is running"}}
    assert route_of("/", routes)["direct_response"] == said


def test_what_is_forwarded_without_a_token_is_exactly_what_the_policy_calls_public(
    routes: list[Json],
) -> None:
    free = {route["match"].get("path") for route in routes if "route" in route and requirement(route) is None}
    assert free == {path for path in OURS if POLICY[path].access is Access.PUBLIC}


def test_a_route_that_says_nothing_needs_a_token(public: Json) -> None:
    tokens = filter_of(public, "jwt_authn")
    assert tokens["rules"] == [{"match": {"prefix": "/"}, "requires": {"provider_name": "ollamesh"}}]
    assert {
        name: found["provider_and_audiences"]["audiences"]
        for name, found in tokens["requirement_map"].items()
    } == {name: [name] for name in SERVICES}


def filter_of(manager: Json, name: str) -> Json:
    (found,) = [one["typed_config"] for one in manager["http_filters"] if one["name"].endswith(name)]
    return dict(found)


def test_tokens_come_in_one_header_and_are_passed_on(public: Json) -> None:
    provider = filter_of(public, "jwt_authn")["providers"]["ollamesh"]
    assert provider["from_headers"] == [
        {"name": "authorization", "value_prefix": prefix} for prefix in ("Bearer ", "bearer ")
    ]
    assert not {"from_params", "from_cookies"} & provider.keys()
    assert provider["forward"] is True
    assert provider["require_expiration"] is True
    assert provider["max_lifetime"] == "600s"


def test_who_calls_is_a_header_for_the_edge_alone(public: Json) -> None:
    provider = filter_of(public, "jwt_authn")["providers"]["ollamesh"]
    assert provider["claim_to_headers"] == [{"header_name": "x-ollamesh-user", "claim_name": "sub"}]
    stripped = [
        mutation["remove_on_match"]["key_matcher"].get("prefix")
        for mutation in public["early_header_mutation_extensions"][0]["typed_config"]["mutations"]
    ]
    assert "x-ollamesh-" in stripped, "somebody could bring it along"


def test_users_are_kept_together_only_where_a_replica_keeps_something_of_theirs(routes: list[Json]) -> None:
    forwarded = [route for route in routes if "route" in route]
    kept = {route["route"]["cluster"] for route in forwarded if route["route"].get("hash_policy")}
    assert kept == {"sandbox"}
    for route in forwarded:
        known = not route["typed_per_filter_config"]["envoy.filters.http.jwt_authn"].get("disabled")
        removed = route.get("request_headers_to_remove", []) == ["x-ollamesh-user"]
        assert removed is (known and route["route"]["cluster"] != "sandbox")


def test_nothing_that_may_be_missing_is_allowed(text: str) -> None:
    assert "allow_missing" not in text


def test_filters_in_their_order(public: Json) -> None:
    assert [one["name"].removeprefix("envoy.filters.http.") for one in public["http_filters"]] == [
        "compressor.zstd", "compressor.gzip", "grpc_web", "cors", "lua", "local_ratelimit.connection",
        "grpc_json_transcoder", "grpc_json_transcoder.models", "local_ratelimit.door", "ext_authz", "jwt_authn",
        "lua.rates", "ratelimit", "grpc_stats", "router",
    ]  # fmt: skip


def test_what_is_compressed_is_a_short_list_without_streams_and_secrets(routes: list[Json]) -> None:
    compressed = {
        route["match"]["path"].rpartition(".")[2]
        for route in routes
        if any("compressor" in name for name in route["typed_per_filter_config"])
    }
    assert compressed == {
        "OAuthService/GetServerMetadata", "OAuthService/GetJwks", "OllamaService/GetVersion", "OllamaService/ListRunning",
        "OllamaService/ListTags", "OllamaService/Show", "OpenAIService/GetModel", "OpenAIService/ListModels",
    }  # fmt: skip


def test_streams_are_bounded_by_their_deadline_not_by_a_default(routes: list[Json]) -> None:
    for route in routes:
        if "route" in route:
            assert route["route"]["timeout"] == "0s"
            assert route["route"]["max_stream_duration"]["grpc_timeout_header_max"] == "3600s"
            assert route["route"]["idle_timeout"] in {"2s", "300s", "3600s"}
            assert route["request_headers_to_add"][0]["append_action"] == "ADD_IF_ABSENT"


def test_clusters_check_balance_and_limit(config: Json) -> None:
    clusters = {cluster["name"]: cluster for cluster in config["static_resources"]["clusters"]}
    assert set(clusters) == {*SERVICES, "auth_keys", "jwks"}
    for name in (*SERVICES, "auth_keys"):
        cluster = clusters[name]
        assert cluster["lb_policy"] == ("MAGLEV" if name == "sandbox" else "LEAST_REQUEST")
        (check,) = cluster["health_checks"]
        assert check["no_traffic_interval"] == check["interval"] == "1s"
        service = check["grpc_health_check"].get("service_name", "")
        assert service == ("liveness" if name == "auth_keys" else "")
        assert cluster["common_lb_config"]["healthy_panic_threshold"] == {"value": 1.0}
        (limits,) = cluster["circuit_breakers"]["thresholds"]
        assert limits["retry_budget"]["min_retry_concurrency"] == 50
        assert cluster["outlier_detection"]["enforcing_consecutive_5xx"] == 0


def test_the_admin_port_is_on_loopback_wherever_the_edge_listens(config: Json) -> None:
    assert config["admin"]["address"]["socket_address"]["address"] == "127.0.0.1"
    assert [path for paths in config["admin"]["allow_paths"] for path in paths.values()] == [
        "/ready", "/stats", "/stats?", "/stats/prometheus",
    ]  # fmt: skip
    assert [listener["address"]["socket_address"]["address"] for listener in strangers(config)] == [
        "127.0.0.1", "10.0.0.5",
    ]  # fmt: skip


def strangers(config: Json) -> list[Json]:
    """The listeners that are for others than Envoy itself."""
    found: list[Json] = config["static_resources"]["listeners"][:-1]
    return found


def test_no_listener_shares_its_address_with_another_process(config: Json) -> None:
    assert [one["enable_reuse_port"] for one in config["static_resources"]["listeners"]] == [
        False, False, False,
    ]  # fmt: skip


def test_the_keys_socket_is_nobody_elses(config: Json) -> None:
    path = config["static_resources"]["listeners"][-1]["address"]["pipe"]["path"]
    assert path == "@ollamesh-jwks-127.0.0.1-8080"
    (jwks,) = [found for found in config["static_resources"]["clusters"] if found["name"] == "jwks"]
    assert path in json.dumps(jwks)


def test_the_same_settings_print_the_same_bytes(text: str) -> None:
    assert printed(**TLS) == text


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {
            "OLLAMESH_BIND": "::",
            "OLLAMESH_INSECURE_EDGE": "true",
            "OLLAMESH_CORS_ORIGINS": "https://app.example,http://[::1]:*",
        },
        {
            "OLLAMESH_INFERENCE_REPLICAS": "inference-0.inference:50053,inference-1.inference:50053",
            "OLLAMESH_INFERENCE_GREEN_REPLICAS": "inference-green:50053",
            "OLLAMESH_INFERENCE_GREEN_PERCENT": "5",
            "OLLAMESH_AGENT_GREEN_REPLICAS": "agent-green:50052",
        },
        TLS
        | {
            "OLLAMESH_EDGE_CLIENT_CA": "/tls/clients.pem",
            "OLLAMESH_EDGE_DISCOVERY": "files",
            "OLLAMESH_OTLP_TARGET": "collector:4317",
        },
    ],
    ids=["defaults", "everywhere", "names", "everything"],
)
def test_envoy_accepts_it(variables: Mapping[str, str], tmp_path: Path) -> None:
    folder = {"OLLAMESH_EDGE_FOLDER": str(tmp_path / "edge")}
    (tmp_path / "envoy.json").write_text(printed("--write", **{**variables, **folder}))
    argv = [str(envoy()), "--mode", "validate", "--disable-hot-restart", "-c", str(tmp_path / "envoy.json")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr.lower()


def test_every_service_is_asked_who_it_is_and_told_who_asks(config: Json) -> None:
    clusters = {found["name"]: found for found in config["static_resources"]["clusters"]}
    for name, service in {**{name: name for name in SERVICES}, "auth_keys": "auth"}.items():
        tls = clusters[name]["transport_socket"]["typed_config"]["common_tls_context"]
        trust = tls["combined_validation_context"]
        (matcher,) = trust["default_validation_context"]["match_typed_subject_alt_names"]
        assert matcher == {
            "san_type": "URI",
            "matcher": {"exact": f"spiffe://ollamesh/ns/default/sa/{service}"},
        }
        assert trust["validation_context_sds_secret_config"]["name"] == "inside_authorities"
        assert [one["name"] for one in tls["tls_certificate_sds_secret_configs"]] == ["inside_identity"]
        assert tls["tls_params"]["tls_minimum_protocol_version"] == "TLSv1_2"
    assert "transport_socket" not in clusters["jwks"]  # Envoy's talk with itself.


def test_plain_text_inside_is_for_those_who_say_so_and_for_loopback() -> None:
    insecure = {"PATH": os.environ["PATH"], "OLLAMESH_INSECURE_INSIDE": "true"}
    argv = [sys.executable, "-m", "deploy.envoy"]
    plain = subprocess.run(argv, env=insecure, capture_output=True, text=True, check=True)
    assert "transport_sockets" not in plain.stdout
    far = {**insecure, "OLLAMESH_AUTH_REPLICAS": "auth.example:1"}
    refused = subprocess.run(argv, env=far, capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == "envoy: OLLAMESH_INSECURE_INSIDE is for loopback addresses only\n"


def test_mistakes_are_told_and_nothing_is_printed() -> None:
    env = {"PATH": os.environ["PATH"], **INSIDE, "OLLAMESH_EDGE_PORT": "hunter2"}
    done = subprocess.run(
        [sys.executable, "-m", "deploy.envoy"], env=env, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "envoy: OLLAMESH_EDGE_PORT is not a whole number\n"
