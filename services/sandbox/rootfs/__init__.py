"""Builds what jails see: a folder for each profile (see services.sandbox.profiles).

python -m services.sandbox.rootfs --into DIR                     all that this machine has the runtimes for
python -m services.sandbox.rootfs --into DIR python python-data  these
python -m services.sandbox.rootfs --into DIR NAME --requirements FILE --preimport MODULE
                                                                 one of your own, with the packages of a lock
"""

from services.sandbox.rootfs.builds import build

__all__ = ["build"]
