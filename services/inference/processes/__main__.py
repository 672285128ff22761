"""`python -m services.inference.processes FD PLACE`: a worker. Only the head starts one (staff.py)."""

import os
import sys
from functools import partial

from services.common.main import run_service
from services.inference.app import run_worker
from services.inference.config import Config

link, place = map(int, sys.argv[1:])
os.set_inheritable(link, False)  # noqa: FBT003 - Whoever else had it would keep it open for the head.
sys.exit(run_service("inference", Config.read, partial(run_worker, link=link, place=place)))
