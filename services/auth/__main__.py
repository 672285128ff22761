"""`python -m services.auth`"""

import sys

from services.auth.app import run
from services.auth.config import Config
from services.common.main import run_service

if __name__ == "__main__":
    sys.exit(run_service("auth", Config.read, run))
