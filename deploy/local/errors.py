"""What can stop the local stack: a sentence for people that says what is wrong and what mends it."""


class StackError(Exception):
    """Shown as it is, after `ollamesh:`; raising is the whole act."""


class ServerMissingError(StackError):
    def __init__(self, name: str) -> None:
        super().__init__(f"the {name} server is not installed; run `make setup`")


class UnreachableForPostgresError(StackError):
    def __init__(self, folder: object, why: str) -> None:
        super().__init__(
            f"PostgreSQL refuses to run as root, and its programs cannot be copied to {folder} ({why}); "
            "run the stack as an ordinary user"
        )


class ClusterError(StackError):
    def __init__(self, last_line: str) -> None:
        super().__init__(f"PostgreSQL could not make its data directory: {last_line}")


class ClusterBusyError(StackError):
    def __init__(self, pid: int) -> None:
        super().__init__(
            f"PostgreSQL of an earlier stack (pid {pid}) still holds the data directory; run `kill -INT {pid}`"
        )
