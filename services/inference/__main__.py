"""`python -m services.inference`"""

import sys

from services.common.main import run_service
from services.inference.app import run
from services.inference.config import Config

sys.exit(run_service("inference", Config.read, run))
