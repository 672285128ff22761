"""The listener for scrapers on the network: Envoy's figures, whether it is ready, and nothing that changes anything."""

from yarl import URL

from deploy.local.ports import free_ports
from tests.service.edge_app import serving, settings

ANSWERED = {
    ("GET", "/stats/prometheus"): 200,
    ("GET", "/stats/prometheus?usedonly"): 200,
    ("POST", "/stats/prometheus"): 404,
    ("GET", "/"): 404,
    ("GET", "/stats"): 404,
    ("GET", "/config_dump"): 404,
    ("GET", "/stats/prometheus/../../config_dump"): 404,
    ("GET", "/stats/prometheus%2f..%2fcerts"): 404,
    ("POST", "/quitquitquit"): 404,
    ("GET", "/ready"): 200,  # The last: it is still there.
}


async def test_it_tells_figures_and_nothing_else() -> None:
    auth, metrics = free_ports(2)
    async with serving(settings(auth, {}, OLLAMESH_EDGE_METRICS_PORT=str(metrics))) as stack:
        for (method, path), status in ANSWERED.items():
            url = URL(f"http://127.0.0.1:{metrics}{path}", encoded=True)
            async with stack.http.request(method, url) as answer:
                assert answer.status == status, path
                told = "envoy_server_live" in await answer.text()
            assert told is (status == 200 and path != "/ready"), path
