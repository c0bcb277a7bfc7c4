"""Whether a process keeps freed memory or returns it to the system, if the C library is glibc.

A stage's memory is released when its process ends. So stages of a run keep freed memory (:data:`KEEP`), because XLA and
torch ask for it again at every step. A stage that streams returns it instead (:func:`return_freed_memory`), which
undoes ``KEEP``: otherwise the gaps that its readers leave would add up.
"""

import contextlib
import ctypes
import sys

KEEP = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**32)}
"""Environment of a process that keeps freed memory. Without it, the kernel spent a sixth of a stage's time zeroing the
same pages again."""
_ONE_HEAP = {
    -8: 1,  # M_ARENA_MAX
    -4: 65536,  # M_MMAP_MAX, glibc's default
    -3: 32
    * 2**20,  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD: the values that glibc adapts to under large arrays
    -1: 64 * 2**20,
}
"""Options of malloc.h, by number."""


def return_freed_memory() -> None:
    """From now on, freed memory returns to the system, and all threads share one heap.

    By default glibc gives every thread its own heap, and memory freed in one is of no use to the others. Reader threads
    that hand batches on then hold a multiple of what they need.
    """
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # another C library
            glibc = ctypes.CDLL(None)
            for option, value in _ONE_HEAP.items():
                glibc.mallopt(option, value)
