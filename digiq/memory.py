"""What becomes of freed memory, where the C library is glibc: kept, or given back.

A stage's memory goes when its process ends, so stages of a run keep what they free (:data:`KEEP`): XLA and torch ask for
it again at every step. One that streams gives it back instead (:func:`return_freed_memory`), and so undoes ``KEEP``: its
readers' gaps would add up. Both choices stand here, because the second is the first's opposite.
"""

import contextlib
import ctypes
import sys

KEEP = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**32)}
"""Environment of a process that keeps what it frees: a sixth of a stage's time went into the kernel zeroing the same
pages."""
_ONE_HEAP = {
    -8: 1,  # M_ARENA_MAX
    -4: 65536,  # M_MMAP_MAX, glibc's own
    -3: 32 * 2**20,  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD: where glibc's own adapt to under large arrays
    -1: 64 * 2**20,
}
"""Options of malloc.h by number."""


def return_freed_memory() -> None:
    """Has freed memory go back to the system, and to all threads alike, from now on.

    By itself glibc gives every thread a heap of its own, and what is freed in one is of no use to the others: readers that
    hand batches on then hold a multiple of what they need.
    """
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # another C library
            glibc = ctypes.CDLL(None)
            for option, value in _ONE_HEAP.items():
                glibc.mallopt(option, value)
