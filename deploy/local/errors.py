"""What can stop the local stack: a sentence for people that says what is wrong and what mends it."""


def disk_full(folder: object) -> str:
    return f"the disk of {folder} is full; free some space there, or set OLLAMESH_HOME to a folder on another disk"


class StackError(Exception):
    """Shown as it is, after `ollamesh:`; raising is the whole act."""


class SettingsError(StackError):
    def __init__(self, mistakes: str) -> None:
        super().__init__(f"the environment is wrong: {mistakes}")


class ServerMissingError(StackError):
    def __init__(self, name: str) -> None:
        super().__init__(f"the {name} server is not installed; run `make setup`")


class ObserversMissingError(StackError):
    def __init__(self, names: list[str], folder: object, variable: str) -> None:
        super().__init__(
            f"OLLAMESH_OBSERVE needs {' and '.join(names)}, and {folder} has none; run `make prometheus`, "
            f"or name a folder that has them in {variable}"
        )


class PortTakenError(StackError):
    def __init__(self, *, name: str, port: int, holder: str, variable: str) -> None:
        super().__init__(
            f"port {port}, which {name} needs, is in use by {holder}; "
            f"stop it, or set {variable} to another port, or to 0 for any free one"
        )


class RuntimePortTakenError(StackError):
    def __init__(self, *, port: int, holder: str, variable: str) -> None:
        super().__init__(
            f"port {port}, which the embedded model runtime needs, is in use by {holder}, which is no Ollama that "
            f"this stack could rely on; stop it, or set {variable} to another port, or to 0 for any free one"
        )


class PortTwiceError(StackError):
    def __init__(self, port: int, variables: list[str]) -> None:
        super().__init__(
            f"port {port} is wanted by {' and '.join(variables)}; set one of them to another port"
        )


class FolderError(StackError):
    def __init__(self, folder: object, variable: str, why: str) -> None:
        super().__init__(
            f"{folder} cannot be used ({why}); make it writable, or set {variable} to another folder"
        )


class DiskFullError(StackError):
    def __init__(self, folder: object, *, free_bytes: int, needed_bytes: int) -> None:
        super().__init__(
            f"the disk of {folder} is full: {free_bytes // 10**6} MB are free and the stack needs "
            f"{needed_bytes // 10**6}; free some space there, or set OLLAMESH_HOME to a folder on another disk"
        )


class DiskRanFullError(StackError):
    def __init__(self, folder: object) -> None:
        super().__init__(disk_full(folder))


class UnreachableForPostgresError(StackError):
    def __init__(self, folder: object, why: str) -> None:
        super().__init__(
            f"PostgreSQL refuses to run as root, and its programs cannot be copied to {folder} ({why}); "
            "run the stack as an ordinary user"
        )


class ClusterError(StackError):
    def __init__(self, why: str) -> None:
        super().__init__(f"its data directory could not be made: {why}")


class ClusterBusyError(StackError):
    def __init__(self, pid: int) -> None:
        super().__init__(
            f"the server of an earlier stack (pid {pid}) still holds its data; run `kill -INT {pid}`"
        )


class PartFailedError(StackError):
    """While the stack started, so all of it was stopped again."""

    def __init__(self, name: str, reason: str, log: object) -> None:
        super().__init__(f"{name} could not be started: {reason} (log: {log})")


class StackBrokenError(StackError):
    def __init__(self, name: str, reason: str, log: object) -> None:
        super().__init__(
            f"the stack is up, but {name} failed too often: {reason} (log: {log}); "
            "run `make down`, then `make up`"
        )


class HeldError(StackError):
    """By a supervisor whose notice board cannot be read: perhaps of another version of Ollamesh."""

    def __init__(self, home: object) -> None:
        super().__init__(
            f"a supervisor that cannot be talked to holds {home}; end it with `fuser -k -TERM {home}`, then try again"
        )


class SupervisorLostError(StackError):
    def __init__(self, log: object) -> None:
        super().__init__(f"the supervisor ended unexpectedly, and all parts with it (log: {log})")


class NotReadyInTimeError(StackError):
    def __init__(self, waited_s: float) -> None:
        super().__init__(f"the stack that another command started was not ready within {waited_s:g} s")
