"""What a container of a service runs: the service that its image was built for, as `python -m services.NAME` would.

An entry point in exec form, so that the service is process 1 and gets SIGTERM itself.
"""

import os
import runpy

runpy.run_module(f"services.{os.environ['OLLAMESH_SERVICE']}", run_name="__main__", alter_sys=True)
