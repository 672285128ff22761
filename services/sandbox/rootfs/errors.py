"""Why a root is not built. The texts are sentences for people."""


class CannotBuildError(Exception):
    """Something is wrong."""


class RuntimeAbsentError(CannotBuildError):
    """Nothing is wrong, but this machine does not have what the profile runs."""

    def __init__(self, program: str) -> None:
        super().__init__(f"this machine has no {program}")
