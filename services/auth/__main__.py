"""`python -m services.auth`"""

import sys

from services.auth.app import run
from services.auth.config import Config
from services.common.main import run_service
from services.common.private_memory import keep_memory_private

if __name__ == "__main__":
    keep_memory_private()
    sys.exit(run_service("auth", Config.read, run))
