"""How long the fault tests are: short in the suite, long in `make chaos`, which sets these."""

import os

SEED = int(os.environ.get("OLLAMESH_CHAOS_SEED", "1"))  # Draws another order of faults.
KILLS = int(os.environ.get("OLLAMESH_CHAOS_KILLS", "3"))
FAULT_S = float(os.environ.get("OLLAMESH_CHAOS_FAULT_S", "2"))  # How long a store is away.
READERS = int(os.environ.get("OLLAMESH_CHAOS_READERS", "40"))  # That do not read.
ROLLING_CALLS = int(os.environ.get("OLLAMESH_CHAOS_CALLS", "600"))  # At least, while a mesh is restarted.
ROLLING_STREAMS = int(os.environ.get("OLLAMESH_CHAOS_STREAMS", "8"))
