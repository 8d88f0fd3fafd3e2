"""Stands for ``tests.faults.reading``, and dies at the first file, or hangs at the second."""

import json
import os
import signal
import sys
import time

first, count = map(int, sys.argv[4:6])
for number in range(first, first + count):
    print(json.dumps({"begun": number, "what": "planted"}), flush=True)
    if number == 0:
        os.kill(os.getpid(), signal.SIGSEGV)
    if number == 1:
        time.sleep(60)
    print(json.dumps({"number": number, "what": "planted", "verdict": "survived", "why": ""}), flush=True)
