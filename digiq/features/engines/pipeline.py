"""Keeps a model busy: threads decode screens and prepare batches ahead of it, as large as memory allows."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from digiq.errors import DigiQError

if TYPE_CHECKING:
    from digiq.vlm.backbone import Backbone

BatchSize = int | Literal["auto"]
_AHEAD = 2  # batches ready or in preparation while one is computed
_MOST = 512  # prompts per batch, even if memory would allow more
_SHARE = 0.4  # of the free memory that a batch may take, as estimated
_WIDTHS = 16  # numbers per token alive at once inside a layer, in model widths, beside its hidden states

# Only one thread prepares, because tokenisers are not thread-safe.
preparing = ThreadPoolExecutor(1, thread_name_prefix="preparing")


@dataclasses.dataclass
class Meter:
    """Seconds, as measured by :func:`metered`."""

    waited: float = 0.0
    """While the model waited for its input."""
    computed: float = 0.0
    """While it worked or its results were fetched."""

    @property
    def share(self) -> float:
        """Share of the total time spent waiting; 0 if no time was spent."""
        total = self.waited + self.computed
        return self.waited / total if total else 0.0


_METER: contextvars.ContextVar[Meter | None] = contextvars.ContextVar("meter", default=None)


@contextlib.contextmanager
def metered() -> Iterator[Meter]:
    """Measures, inside the block, how long engines wait for their input."""
    meter = Meter()
    token = _METER.set(meter)
    try:
        yield meter
    finally:
        _METER.reset(token)


def ahead(
    batches: Sequence[npt.NDArray[np.int64]],
    load: Callable[[npt.NDArray[np.int64]], Any],
    compute: Callable[[Any], npt.NDArray[np.float32]],
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
    """Runs batches through ``compute`` and meanwhile loads the next ones; loading starts as soon as this is called.

    A batch that does not fit into memory is halved, and so are those after it.

    Raises:
      DigiQError: not even a single request fits into memory.
    """
    parts = deque(batches)
    loading: deque[tuple[npt.NDArray[np.int64], Future[Any]]] = deque()

    def look_ahead() -> None:
        while parts and len(loading) < _AHEAD:
            part = parts.popleft()
            loading.append((part, preparing.submit(load, part)))

    look_ahead()

    def run() -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
        try:
            while loading:
                part, future = loading.popleft()
                meter = _METER.get() or Meter()
                started = time.perf_counter()
                inputs = future.result()
                loaded = time.perf_counter()
                meter.waited += loaded - started
                look_ahead()
                try:
                    block = compute(inputs)
                except (MemoryError, RuntimeError) as error:
                    if not out_of_memory(error):
                        raise
                    if len(part) == 1:
                        raise DigiQError(
                            "featurize: a single prompt does not fit into memory; use a smaller model or dtype, or smaller "
                            "screens."
                        ) from error
                    most = (len(part) + 1) // 2
                else:
                    meter.computed += time.perf_counter() - loaded
                    yield part, block
                    continue
                del inputs, future
                _forget(loading)
                print(
                    f"featurize: a batch of {len(part)} prompts does not fit into memory; continuing with {most}.",
                    file=sys.stderr,
                )
                again = [part, *(p for p, _ in loading), *parts]
                loading.clear()
                parts.clear()
                parts.extend(p[i : i + most] for p in again for i in range(0, len(p), most))
                look_ahead()
        finally:
            for _, future in loading:
                future.cancel()

    return run()


def _forget(loading: Sequence[tuple[Any, Future[Any]]]) -> None:
    """Releases the prepared batches, and the memory that torch has cached."""
    import torch

    for _, future in loading:
        future.cancel()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def out_of_memory(error: BaseException) -> bool:
    """Whether torch ran out of memory, on any device."""
    import torch

    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        w in str(error).lower() for w in words
    )


def batch_size_for(backbone: Backbone, tokens: int, free: int | None = None) -> int:
    """Prompts per batch, a power of two, from free memory and the numbers that a prompt of ``tokens`` keeps alive.

    Those are the hidden states of every layer and, inside the widest layer of the language model or the vision tower,
    some multiples of its width. This is an estimate; if it is too high, batches are halved.

    Args:
      backbone: cut off above the wanted layers.
      tokens: tokens of a prompt, including its image's.
      free: free bytes; None: those of the backbone's device.
    """
    config = backbone.model.config
    text, vision = config.get_text_config(), getattr(config, "vision_config", None)

    def width(part: Any) -> int:
        inner = int(getattr(part, "intermediate_size", 0) or getattr(part, "mlp_dim", 0) or 0)
        hidden = int(getattr(part, "hidden_size", 0) or getattr(part, "embed_dim", 0) or 0)
        return _WIDTHS * hidden + 2 * inner

    widest = max(
        width(text), 4 * width(vision) if vision is not None else 0
    )  # vision has up to 4 patches per token
    a_token = (backbone.num_layers + 1) * backbone.hidden_size + widest
    a_prompt = tokens * a_token * backbone.dtype.itemsize
    room = _SHARE * (free_memory(backbone.device) if free is None else free)
    fits = max(1, min(_MOST, int(room // max(a_prompt, 1))))
    return 1 << (fits.bit_length() - 1)


def free_memory(device: Any) -> int:
    """Free bytes of a torch device; for the CPU, what the system can provide without swapping."""
    import torch

    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):  # not Linux
        found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return found
