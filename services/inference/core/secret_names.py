"""Names under which things are kept where others can look."""

import hmac


class Names:
    """Names under which a tenant's things are kept, and that tell nothing of them without SECRET_KEY."""

    def __init__(self, secret_key: str, *, purpose: str) -> None:
        self._secret_key = secret_key.encode()
        self._purpose = purpose

    def name(self, tenant: str, text: bytes) -> bytes:
        """Return 32 bytes that nobody else can compute, and that differ for every tenant."""
        tenant_key = hmac.digest(self._secret_key, f"ollamesh\0{self._purpose}\0{tenant}".encode(), "sha256")
        return hmac.digest(tenant_key, text, "sha256")
