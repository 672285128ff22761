"""One module a board; `BOARDS` has all of them."""

from deploy.grafana.board import Board
from deploy.grafana.boards import agents, fleet, requests, services, stores, tenants

BOARDS: tuple[Board, ...] = (
    fleet.BOARD,
    requests.BOARD,
    tenants.BOARD,
    agents.BOARD,
    stores.BOARD,
    services.BOARD,
)
