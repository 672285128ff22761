"""Why a backup was not made, is no good, or is not restored: one sentence for the operator."""


class BackupError(Exception):
    """Raising is the whole act: whatever was begun has been removed."""


class WrongPassphraseError(BackupError):
    def __init__(self) -> None:
        super().__init__("the passphrase is not the one that this folder was made with")


class DamagedError(BackupError):
    """What lies in the folder is not what was put there."""
