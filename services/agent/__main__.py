"""`python -m services.agent`"""

import sys

from services.agent.app import run
from services.agent.config import Config
from services.common.main import run_service

sys.exit(run_service("agent", Config.read, run))
