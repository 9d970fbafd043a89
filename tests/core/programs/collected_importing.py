"""While a thread imports, the garbage collector ends iterations whose threads are decoding."""

import gc
import sys

from audiomdb.lazy import importing
from audiomdb.stream import SampleStream

for _ in range(20):
    iterator = iter(SampleStream(sys.argv[1], num_threads=2))
    next(iterator)
    circle: list[object] = [iterator]
    circle.append(circle)
    del iterator, circle
    with importing():
        gc.collect()
