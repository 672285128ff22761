"""`python -m tests.unit.guest_driver RESULTS`: runs the programs that stand as a JSON list on standard input, one after
another, as a session would; the last line of its output is the list of their exit codes.
"""

import json
import os
import signal
import sys

from services.sandbox.guest import streams
from services.sandbox.guest.interpreter import Interpreter


def main() -> None:
    programs = json.load(sys.stdin)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    interpreter = Interpreter("main.py")
    interpreter.prepare()
    streams.open_all()
    interpreter.results.open(int(sys.argv[1]))
    codes = [interpreter.run(program.encode()) for program in programs]
    codes[-1] = interpreter.finish(codes[-1])
    os.write(1, b"\n" + json.dumps(codes).encode())
    os._exit(0)


if __name__ == "__main__":
    main()
