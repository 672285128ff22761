"""Who is charged for a stream, and when: who asked for what is made, when it is over; who got another's, when they leave."""

from collections.abc import Callable
from dataclasses import replace

from services.inference.charging import Account, Record, charge_completion
from services.inference.core.asks import Chat
from services.inference.streams.live import Live
from services.inference.streams.means import Asked


class Charges:
    """Charges every stream that was opened, once. To read one again costs nothing."""

    def __init__(self, record: Record) -> None:
        self._record = record

    def made(self, live: Live) -> None:
        """Charge who has asked for what is made here, if somebody has and was not charged yet."""
        account = live.keeping.account
        if live.is_made_here and account is not None:
            live.keeping = replace(live.keeping, account=None)
            charge_completion(self._record, account, live.completion)

    def of_another(self, asked: Asked, stream_id: str, live: Live) -> Callable[[], None]:
        """Return what charges who has opened a stream, if it is another one's then, made here or elsewhere."""
        account = account_of(asked, stream_id)

        def charge() -> None:
            if asked.wishes.is_charged and live.stream_id != stream_id:
                charge_completion(self._record, account, live.completion, joined=True)

        return charge


def account_of(asked: Asked, stream_id: str) -> Account:
    operation = "chat" if isinstance(asked.order.ask, Chat) else "text_completion"
    return Account(
        principal=asked.principal, stream_id=stream_id, model=asked.order.model, operation=operation
    )
