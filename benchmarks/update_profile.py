"""Where an update of upstream-sized heads spends its time: each matrix product, and the optimiser's pass.

Each distinct product of an update (forward, gradient of the weights, gradient of the inputs) runs by itself, at its own
shape. So does the optimiser's pass over one Q-head, which clips, steps Adam and moves the target's average. Times are
the best of three. The rest of the measured update is gathering features, activations, the loss, and what XLA does not
overlap. Rates are printed with the best one, so that a shape that is slow on the hardware stands out.

A profiler's trace would not help: XLA's CPU products run on threads that it does not see.

    .venv/bin/python benchmarks/update_profile.py --batch 32 256 2048
    .venv/bin/python benchmarks/update_profile.py --width 0.5

Full width needs 12 GB of memory. The last line is one JSON object.
"""

import argparse
import functools
import itertools
import json
import platform
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from critic_updates import THREADS, digiq_heads, heads_learner, input_sizes, q_sizes, v_sizes, weights


class Part(NamedTuple):
    """One kind of work in an update."""

    name: str
    seconds: float
    """Time in one update, summed over all its occurrences."""
    work: float
    """Amount of work, FLOP or bytes."""


def products(width: float, batch: int) -> list[Part]:
    """Every matrix product of an update of the paper's objective, grouped by kind and shape.

    Each layer of each twin runs forward twice (online and target) and backward once; no gradient flows to the features.
    """
    parts: dict[str, Part] = {}
    observation, pair = input_sizes(width)
    for head, sizes in (
        ("Q", (observation + pair, *q_sizes(width), 1)),
        ("V", (observation, *v_sizes(width), 1)),
    ):
        for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
            x, w, y = jnp.ones((batch, fan_in)), jnp.ones((fan_in, fan_out)), jnp.ones((batch, fan_out))
            kinds: list[tuple[str, Callable[..., Any], Any, Any, int]] = [
                ("forward", lambda x, w: x @ w, x, w, 4),
                ("to weights", lambda x, y: x.T @ y, x, y, 2),
            ]
            if layer:
                kinds.append(("to inputs", lambda y, w: y @ w.T, y, w, 2))
            for kind, product, a, b, times in kinds:
                seconds = times * best_of(jax.jit(product), a, b)
                name = f"{head} {fan_in}x{fan_out} {kind}"
                before = parts.get(name, Part(name, 0.0, 0.0))
                work = times * 2.0 * batch * fan_in * fan_out
                parts[name] = Part(name, before.seconds + seconds, before.work + work)
    return list(parts.values())


def optimiser(width: float) -> Part:
    """Clipping, Adam, decay and the target's average over one Q-head's matrices, scaled to all parameters."""
    sizes = (sum(input_sizes(width)), *q_sizes(width), 1)
    learner = heads_learner(width, 32, 1)
    shapes = list(itertools.pairwise(sizes))
    state: Any = [{"p": jnp.ones(s), "m": jnp.zeros(s), "v": jnp.zeros(s), "t": jnp.ones(s)} for s in shapes]
    gradient = [jnp.full(s, 1e-3) for s in shapes]
    adam = optax.scale_by_adam()
    count = jnp.zeros((), jnp.int32)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: Any, gradient: Any) -> Any:
        params, target = ([one[k] for one in state] for k in ("p", "t"))
        moments = optax.ScaleByAdamState(count, [one["m"] for one in state], [one["v"] for one in state])
        factor = jnp.minimum(1.0, learner.config.gradient_clip / optax.global_norm(gradient))
        direction, moments = adam.update([g * factor for g in gradient], moments)
        params = [p - 1e-5 * (d + 0.01 * p) for p, d in zip(params, direction, strict=True)]
        target = optax.incremental_update(params, target, learner.config.tau)
        return [
            {"p": p, "m": m, "v": v, "t": t}
            for p, m, v, t in zip(params, moments.mu, moments.nu, target, strict=True)
        ]

    def run() -> Any:
        nonlocal state
        state = step(state, gradient)
        return state

    q, v = weights(width)
    scale = 2 * (q + v) / q
    # Four arrays are read and written; the gradient is read twice, for its norm and for the step.
    return Part("clip, Adam, average", scale * best_of(run), 10 * 4 * 2.0 * (q + v))


def best_of(function: Callable[..., Any], *arguments: Any, times: int = 3) -> float:
    """Shortest time of a call, seconds; one warm-up call is made first."""
    jax.block_until_ready(function(*arguments))
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=float, default=1.0, help="of the heads, as a share of upstream's")
    parser.add_argument("--batch", type=int, nargs="+", default=[32, 256, 2048], help="rows of an update")
    arguments = parser.parse_args()
    passed = optimiser(arguments.width)
    found = {}
    for batch in arguments.batch:
        parts = products(arguments.width, batch)
        turn = digiq_heads(arguments.width, batch, 1 if batch > 256 else 3)
        update = min(seconds / updates for updates, seconds in (turn() for _ in range(3)))
        best = max(part.work / part.seconds for part in parts)
        print(f"\nbatch {batch}: an update takes {update:.3f} s; best rate {best / 1e9:.0f} GFLOP/s")
        rows = [(p.name, p.seconds, f"{p.work / p.seconds / 1e9:6.0f} GFLOP/s") for p in parts]
        kept = [row for row in rows if row[1] >= 0.01 * update]
        rest = sum(row[1] for row in rows) - sum(row[1] for row in kept)
        kept.append(("smaller products", rest, ""))
        kept.append((passed.name, passed.seconds, f"{passed.work / passed.seconds / 1e9:6.0f} GB/s"))
        apart = sum(row[1] for row in kept)
        kept.append(("all else", update - apart, ""))
        for name, seconds, rate in kept:
            print(f"  {name:<28}{seconds:>9.3f} s {seconds / update:>7.1%}  {rate}")
        found[str(batch)] = {
            "update_seconds": round(update, 4),
            "products_seconds": round(sum(p.seconds for p in parts), 4),
            "products_at_best_rate_seconds": round(sum(p.work for p in parts) / best, 4),
            "optimiser_seconds": round(passed.seconds, 4),
        }
    about = {"benchmark": "update_profile", "width": arguments.width, "batches": found}
    print(json.dumps(about | {"hardware": f"{platform.machine()}, {THREADS} cores", "jax": jax.__version__}))


if __name__ == "__main__":
    main()
