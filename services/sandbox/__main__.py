"""`python -m services.sandbox`"""

import sys

from services.common.main import run_service
from services.sandbox.app import run
from services.sandbox.config import Config

if __name__ == "__main__":
    sys.exit(run_service("sandbox", Config.read, run))
