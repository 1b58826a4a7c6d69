#!/usr/bin/env python3
"""How many guests the suite booted. Fewer than a whole run needs means that tests were skipped."""
import sys

FLOOR = 90

try:
    booted = sum(int(line) for line in open(sys.argv[1]))
except FileNotFoundError:
    booted = 0
print(f"{booted} guests booted, at least {FLOOR} expected of a whole run")
sys.exit(0 if booted >= FLOOR else 1)
