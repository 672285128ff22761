"""What a change of a person's rights does to what they are logged in with."""


class ExpiringSessions:
    """Nothing but time: tokens live ten minutes at most, and are not taken back before."""

    async def end(self, organization_id: str, user_id: str) -> None:
        """Leave them to expire."""
