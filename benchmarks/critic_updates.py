"""Critic updates per second: ours against d3rlpy, against torch, and against the hardware's bound.

Each framework has its own process. Contestants take turns, on the same shapes, dtype and threads, and each figure is
the median of the ratios of neighbouring turns.

(a) ``vs_d3rlpy``: an update of IQL's critic (value and twin Q; 256-256 MLPs, observation 17, action 6, batch 256, 100,000
    transitions, float32) by the ``Learner`` that users run, against the same part of d3rlpy 2.8's update.
    ``vs_d3rlpy_whole``: with an AWR actor, composed of this project's losses in one scan, against d3rlpy's whole
    update. Our times include sampling; d3rlpy's sampling is timed separately and left out (``d3rlpy_sampling`` is its
    share of an update that includes it).
(b) ``vs_torch_heads``, ``vs_torch_compiled``, ``vs_upstream_shape``: Digi-Q's twin heads (full size 417 M parameters) on
    stored features, batch 32, against the same heads in torch on the same features, the same under ``torch.compile``,
    and with upstream's three trainable RoBERTa-base encoders in the loop (random weights: the cost is the same).
(c) ``roofline_256``, ``roofline_2048``: the least time that matrix products and the optimiser's memory pass can take, at
    the best rate that either framework reaches here at that batch size, divided by the time of our update.
(d) ``population_speedup``: eight small critics under ``vmap`` against eight runs in sequence.

Run it on a quiet machine (``benchmarks/quiet.py`` refuses a busy one). Contestants use the cores that this process may
use (``taskset`` is respected). d3rlpy and torch use one thread or all, whichever is faster in this run: small layers
are slower with more threads, and on a busy machine threads that wait for one another are extremely slow. All
contestants are compiled and warmed up before the first turn. If learners of the requested width would fill more than
half of the memory, only one is alive at a time: it starts, warms up, takes its turn and ends.

    .venv/bin/python benchmarks/critic_updates.py            # full width: 24 GB of memory, a quarter of an hour
    .venv/bin/python benchmarks/critic_updates.py --quick    # after one call that installs d3rlpy

``--quick`` uses half-width heads, on inputs of half the width, and few turns. The last line is one JSON object. Because
of its pins, d3rlpy gets its own environment, made under ``build/`` on first use; it shares torch with this one.
"""

import argparse
import contextlib
import copy
import functools
import importlib.metadata
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from quiet import Quiet

THREADS = len(os.sched_getaffinity(0))
OBSERVATION, ACTION, BATCH, ROWS = 17, 6, 256, 100_000
D3RLPY = Path(__file__).parent.parent / "build" / "d3rlpy"
SMALL = "jax, small"
"""A process for contestants with short turns, which take one turn to warm up. Their compiled programs are cached
between calls. A cached program is slow when it first runs, so those of the heads, whose turns are long, are compiled
anew."""
COMPILED = D3RLPY.with_name("compiled")
_D3RLPY_PACKAGES = [
    "d3rlpy==2.8.1",
    "gymnasium==1.0.0",
    "gym==0.26.2",
    "gym-notices==0.1.0",
    "structlog==26.1.0",
    "colorama==0.4.6",
    "h5py==3.16.0",
    "dataclasses-json==0.6.7",
    "marshmallow==4.4.0",
    "typing-inspect==0.9.0",
    "mypy-extensions==1.2.0",
    "farama-notifications==0.0.6",
    "click==8.5.1",
    "tqdm==4.70.1",
    "cloudpickle==3.1.2",
    "scikit-learn==1.7.2",
    "joblib==1.6.0",
    "threadpoolctl==3.8.0",
]

Turn = Callable[[], tuple[int, float]]
"""Runs a burst of updates; returns their number and the seconds they took."""


def input_sizes(width: float) -> tuple[int, int]:
    """Upstream's input sizes, scaled: V's 5,120, and the 5,632 of the action and the VLM that Q reads in addition."""
    return round(width * 5120), round(width * 5632)


def q_sizes(width: float) -> tuple[int, ...]:
    """Hidden layer sizes of upstream's Q-head, scaled."""
    return tuple(round(width * n) for n in (10752, 3840, 3840, 3840))


def v_sizes(width: float) -> tuple[int, ...]:
    """Hidden layer sizes of upstream's V-head, scaled."""
    return tuple(round(width * n) for n in (2304, 2304, 2304))


def weights(width: float) -> tuple[int, int]:
    """Number of weights of one Q-head and of one V-head."""

    def count(*sizes: int) -> int:
        return sum(a * b for a, b in itertools.pairwise(sizes))

    observation, pair = input_sizes(width)
    return count(observation + pair, *q_sizes(width), 1), count(observation, *v_sizes(width), 1)


# --- contestants -----------------------------------------------------------------------------------------------------


def digiq_iql(steps: int) -> Turn:
    """One scan of IQL updates: a single fused gradient and one Adam step over value, twin Q and actor."""
    import jax
    import jax.numpy as jnp
    import optax

    from digiq.critics.heads import MLP
    from digiq.critics.objectives.base import td_target
    from digiq.critics.objectives.iql import expectile_weight

    net = functools.partial(MLP, (256, 256), layer_norm=False)
    q_net, v_net, actor = net(1), net(1), net(ACTION)
    keys = jax.random.split(jax.random.PRNGKey(0), 8)
    data = {
        "s": jax.random.normal(keys[0], (ROWS, OBSERVATION)),
        "a": jnp.tanh(jax.random.normal(keys[1], (ROWS, ACTION))),
        "r": jax.random.normal(keys[2], (ROWS,)),
        "d": jnp.full((ROWS,), 0.99),
        "next": jax.random.normal(keys[3], (ROWS, OBSERVATION)),
    }
    s, a = data["s"][:1], data["a"][:1]
    params = {
        # Twins one by one, which beats vmap on CPUs.
        "q": tuple(q_net.init(k, s, a) for k in jax.random.split(keys[4], 2)),
        "v": v_net.init(keys[5], s),
        "actor": {"mean": actor.init(keys[6], s), "log_std": jnp.zeros(ACTION)},
    }
    optimizer = optax.adam(3e-4)

    def q_values(q: Any, s: jax.Array, a: jax.Array) -> jax.Array:
        return jnp.stack([q_net.apply(p, s, a)[..., 0] for p in q])

    def loss(params: Any, target: Any, b: dict[str, jax.Array]) -> jax.Array:
        v = v_net.apply(params["v"], b["s"])[..., 0]
        next_v = v_net.apply(params["v"], b["next"])[..., 0]
        q_bar = jax.lax.stop_gradient(q_values(target, b["s"], b["a"]).min(0))
        v_loss = jax.vmap(functools.partial(expectile_weight, expectile=0.7))(q_bar, v) * jnp.square(
            q_bar - v
        )
        y = jax.vmap(td_target)(b["r"], b["d"], next_v)
        q_loss = jnp.square(q_values(params["q"], b["s"], b["a"]) - y).sum(0)
        weight = jax.lax.stop_gradient(jnp.minimum(jnp.exp(3.0 * (q_bar - v)), 100.0))
        mean = jnp.tanh(actor.apply(params["actor"]["mean"], b["s"]))
        log_std = params["actor"]["log_std"]
        log_prob = -(0.5 * jnp.square((b["a"] - mean) / jnp.exp(log_std)) + log_std).sum(-1)
        return (v_loss + q_loss - weight * log_prob).mean()

    def step(carry: Any, rows: jax.Array) -> tuple[Any, None]:
        params, target, state, data = carry
        batch = {name: column[rows] for name, column in data.items()}
        gradient = jax.grad(loss)(params, target, batch)
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        target = optax.incremental_update(params["q"], target, 0.005)
        return (params, target, state, data), None

    @functools.partial(jax.jit, donate_argnums=0)
    def epoch(learner: Any, data: Any, key: jax.Array) -> Any:
        rows = jax.random.randint(key, (steps, BATCH), 0, ROWS)
        (params, target, state, _), _ = jax.lax.scan(step, (*learner, data), rows)
        return params, target, state

    learner = (params, jax.tree.map(jnp.copy, params["q"]), optimizer.init(params))
    return jax_turn(lambda learner, key: epoch(learner, data, key), learner, steps)


def learner_iql(steps: int) -> Turn:
    """An epoch of the ``Learner`` with ``objective: iql``, as run by ``train-q`` and ``fit_critic``."""
    import jax
    import numpy as np

    from digiq.critics.learner import CriticConfig, Learner
    from digiq.critics.training_data import prepare

    rng, t = np.random.default_rng(0), np.arange(ROWS)
    done = t % 1000 == 999
    transitions = {
        "obs": t,
        "next_obs": np.where(done, -1, t + 1),
        "reward": rng.normal(size=ROWS).astype(np.float32),
        "terminated": done,
        "truncated": np.zeros(ROWS, bool),
        "episode": t // 1000,
    }
    features = {
        "observation": rng.normal(size=(ROWS, OBSERVATION)).astype(np.float32),
        "pair": np.tanh(rng.normal(size=(ROWS, ACTION))).astype(np.float32),
        "candidate_row": t[:, None],
    }
    heads = {"q_hidden": (256, 256), "v_hidden": (256, 256), "layer_norm": False}
    config = CriticConfig(
        objective="iql", heads=heads, batch_size=BATCH, steps_per_epoch=steps, schedule="constant", tau=0.005
    )
    learner = Learner(config)
    data = jax.device_put(prepare(transitions, features, gamma=0.99))
    hyper = learner.hyper()
    return jax_turn(
        lambda state, _: learner.epoch(state, hyper, data)[0],
        learner.init(jax.random.PRNGKey(0), data),
        steps,
    )


def d3rlpy_iql(steps: int, part: str, threads: int) -> Turn:
    """d3rlpy's IQL: its ``sampling``, or its update of the ``critic`` or the ``whole``, on batches drawn beforehand."""
    import d3rlpy
    import numpy as np
    import torch

    rng = np.random.default_rng(0)
    dataset = d3rlpy.dataset.MDPDataset(
        observations=rng.normal(size=(ROWS, OBSERVATION)).astype(np.float32),
        actions=np.tanh(rng.normal(size=(ROWS, ACTION))).astype(np.float32),
        rewards=rng.normal(size=ROWS).astype(np.float32),
        terminals=(np.arange(ROWS) % 1000 == 999).astype(np.float32),
    )
    algo = d3rlpy.algos.IQLConfig(batch_size=BATCH).create(device=False)
    algo.build_with_dataset(dataset)
    batches = [dataset.sample_transition_batch(BATCH) for _ in range(steps)]
    impl = algo.impl

    def critic(batch: Any) -> None:
        """d3rlpy's ``inner_update`` without the actor."""
        impl.update_critic(d3rlpy.torch_utility.TorchMiniBatch.from_batch(batch, 0.99, (), "cpu"))
        impl.update_critic_target()

    work = {
        "sampling": lambda batch: dataset.sample_transition_batch(BATCH),
        "critic": critic,
        "whole": algo.update,
    }[part]

    def turn() -> tuple[int, float]:
        torch.set_num_threads(threads)
        start = time.perf_counter()
        for batch in batches:
            work(batch)
        return steps, time.perf_counter() - start

    turn()
    return turn


@functools.cache
def heads_of(width: float) -> Any:
    """Features on the device, and one learner state that learners of all batch sizes share in turn."""
    import types

    import jax
    import numpy as np

    from digiq.critics.training_data import prepare

    data = jax.device_put(prepare(*stored_features(np, *input_sizes(width), rows=2048), gamma=0.95))
    state = heads_learner(width, 32, 1).init(jax.random.PRNGKey(0), data)
    return types.SimpleNamespace(data=data, state=state)


def heads_learner(width: float, batch: int, steps: int) -> Any:
    """The paper's objective and optimiser at upstream's sizes."""
    from digiq.critics.learner import CriticConfig, Learner

    config = CriticConfig(
        heads={"q_hidden": q_sizes(width), "v_hidden": v_sizes(width), "layer_norm": False},
        batch_size=batch,
        steps_per_epoch=steps,
        learning_rate=1e-5,
        schedule="constant",
        gradient_clip=0.01,
        tau=0.1,
    )
    return Learner(config)


def digiq_heads(width: float, batch: int, steps: int, warm: bool = True) -> Turn:
    """This project's learner on stored features.

    A ``warm`` turn begins with an epoch that is not timed, since the first epoch after another process has filled
    gigabytes takes up to twice as long as the next. A turn that lasts many seconds, or that follows another turn of
    this process, does not need it.
    """
    import jax

    learner, held = heads_learner(width, batch, steps), heads_of(width)
    hyper = learner.hyper()
    epoch = type(learner).epoch.lower(learner, held.state, hyper, held.data).compile()

    def turn() -> tuple[int, float]:
        if warm:
            held.state, _ = jax.block_until_ready(epoch(held.state, hyper, held.data))
        start = time.perf_counter()
        held.state, _ = jax.block_until_ready(epoch(held.state, hyper, held.data))
        return steps, time.perf_counter() - start

    return turn


_TORCH_CRITICS: dict[float, Any] = {}


def torch_critics(width: float, encoders: bool) -> Any:
    """Online critic, target critic and optimiser. If those with encoders are built first, they also serve contestants
    without encoders, since the optimiser skips parameters without a gradient."""
    import torch
    from torch import nn

    observation, pair = input_sizes(width)

    def head(*sizes: int) -> nn.Module:
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(sizes):
            layers += [nn.Linear(a, b), nn.ReLU()]
        return nn.Sequential(*layers[:-1])

    class Critic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q = nn.ModuleList(head(observation + pair, *q_sizes(width), 1) for _ in range(2))
            self.v = nn.ModuleList(head(observation, *v_sizes(width), 1) for _ in range(2))
            if encoders:
                from transformers import RobertaConfig, RobertaModel

                roberta = RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1)
                self.encoders = nn.ModuleList(
                    RobertaModel(roberta, add_pooling_layer=False) for _ in range(3)
                )

        def texts(self, tokens: list[torch.Tensor], which: tuple[int, ...]) -> torch.Tensor:
            found = [self.encoders[e](t).last_hidden_state[:, 0] for e, t in zip(which, tokens, strict=True)]
            return torch.cat(found, -1)

    def build() -> Critic:
        """A critic with uniform weights, since the modules' own initial values take several times as long to draw."""
        with torch.device("meta"):
            critic = Critic()
        critic.to_empty(device="cpu")
        for name, tensor in [*critic.named_parameters(), *critic.named_buffers()]:
            if name.endswith("position_ids"):
                tensor.copy_(torch.arange(tensor.shape[-1]))
            elif tensor.ndim == 1:
                nn.init.constant_(tensor, float("LayerNorm.weight" in name))
            elif tensor.is_floating_point():
                nn.init.zeros_(tensor)  # on every core, so that all of them touch the memory
                nn.init.uniform_(tensor, -0.02, 0.02)
            else:
                tensor.zero_()  # token types
        return critic

    if width not in _TORCH_CRITICS:
        torch.manual_seed(0)
        online = build()
        target = copy.deepcopy(online).requires_grad_(False)
        optimizer = torch.optim.AdamW(online.parameters(), lr=1e-5, fused=True)
        _TORCH_CRITICS[width] = online, target, optimizer
    return _TORCH_CRITICS[width]


def torch_heads(
    width: float, batch: int, steps: int, encoders: bool = False, threads: int = 0, compiled: bool = False
) -> Turn:
    """The same update in torch: fused AdamW, clipping, EMA target; optionally with upstream's text encoders, or with
    the loss under ``torch.compile``."""
    import numpy as np
    import torch
    from torch import nn

    threads = threads or THREADS
    torch.set_num_threads(threads)
    online, target, optimizer = torch_critics(width, encoders)

    def trained(critic: Any) -> list[Any]:
        parts = [critic.q, critic.v] + ([critic.encoders] if encoders else [])
        return [p for part in parts for p in part.parameters()]

    learned, followed = trained(online), trained(target)
    transitions, features = stored_features(np, *input_sizes(width))
    observation, pair = (torch.from_numpy(features[k]) for k in ("observation", "pair"))
    obs, following = (
        torch.from_numpy(transitions["obs"]),
        torch.from_numpy(transitions["next_obs"]).clamp(min=0),
    )
    reward = torch.from_numpy(transitions["reward"])
    discount = 0.95 * (1 - torch.from_numpy(transitions["terminated"]).float())
    lengths = (16, 6, 8, 6, 8)  # goal, previous type and text, action type and text, in tokens
    tokens = [torch.randint(5, 50000, (batch, n)) for n in lengths]

    def inputs(critic: Any, rows: torch.Tensor, action: torch.Tensor | None) -> torch.Tensor:
        x = observation[rows]
        if encoders:  # each encoder's output replaces 768 stored numbers
            texts = critic.texts([t[: len(rows)] for t in tokens[:3]], (0, 1, 2))
            x = torch.cat([x[:, 3 * 768 :], texts], -1)
        if action is None:
            return x
        p = pair[action]
        if encoders:
            p = torch.cat([critic.texts([t[: len(rows)] for t in tokens[3:]], (1, 2)), p[:, 2 * 768 :]], -1)
        return torch.cat([x, p], -1)

    def loss_of(rows: torch.Tensor) -> torch.Tensor:
        s, s2 = obs[rows], following[rows]
        with torch.no_grad():
            next_x = inputs(target, s2, None)
            y = [reward[rows] + discount[rows] * v(next_x)[:, 0] for v in target.v]
            target_x = inputs(target, s, s)
            q_bar = [q(target_x)[:, 0] for q in target.q]
        x = inputs(online, s, s)
        loss = sum(((q(x)[:, 0] - t) ** 2).mean() for q, t in zip(online.q, y, strict=True))
        return loss + sum(
            ((v(x[:, : observation.shape[1]])[:, 0] - t) ** 2).mean()
            for v, t in zip(online.v, q_bar, strict=True)
        )

    loss_fn = torch.compile(loss_of) if compiled else loss_of

    def step(count: int) -> None:
        loss = loss_fn(torch.randint(0, len(obs), (count,)))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learned, 0.01)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(followed, learned, 0.1)

    def turn() -> tuple[int, float]:
        torch.set_num_threads(threads)
        if not encoders:  # negligible in a turn of many seconds
            step(batch)
        start = time.perf_counter()
        for _ in range(steps):
            step(batch)
        return steps, time.perf_counter() - start

    step(
        batch if compiled else 1
    )  # makes all that is made on first use: gradients, the optimiser's state, programs
    return turn


def population(size: int, steps: int, vectorised: bool) -> Turn:
    """``size`` small critics, at once or one after another; one update here updates every member once."""
    import jax
    import numpy as np

    from digiq.critics.learner import CriticConfig, Learner
    from digiq.critics.population import Population, PopulationConfig
    from digiq.critics.training_data import prepare

    learner = Learner(
        CriticConfig(heads={"q_hidden": (128, 128), "v_hidden": (128, 128)}, steps_per_epoch=steps)
    )
    data = jax.device_put(prepare(*stored_features(np, 256, 256), gamma=0.95))
    members = Population.of(learner, PopulationConfig(seeds=size), 0)
    if vectorised:
        hyper = members.hyper()
        return jax_turn(lambda s, _: members.epoch(s, hyper, data)[0], members.init(data), steps)
    hyper = learner.hyper()
    states = [learner.init(jax.random.PRNGKey(m.seed), data) for m in members.members]
    return jax_turn(lambda states, _: [learner.epoch(s, hyper, data)[0] for s in states], states, steps)


def jax_rates(width: float, batch: int) -> Turn:
    """The best rates that JAX reaches here: FLOP/s of the heads' products, bytes/s of an Adam-and-EMA pass."""
    import jax
    import jax.numpy as jnp

    rows, columns = sum(input_sizes(width)), q_sizes(width)[0]
    some = few_columns(width, batch)
    x, w = jnp.ones((batch, rows)), jnp.ones((rows, some))

    @functools.partial(jax.jit, donate_argnums=(0, 2, 3, 4))
    def adam(p: Any, g: Any, m: Any, v: Any, t: Any) -> Any:
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        p = p - 1e-5 * (m / (jnp.sqrt(v) + 1e-8) + 0.01 * p)
        return p, m, v, 0.9 * t + 0.1 * p

    product = jax.jit(jnp.matmul)
    p, g, *rest = (jnp.ones((rows, columns)) for _ in range(5))

    def memory() -> None:
        nonlocal p, rest
        p, *rest = jax.block_until_ready(adam(p, g, *rest))

    return rates_turn(
        lambda: jax.block_until_ready(product(x, w)),
        2 * batch * rows * some,
        memory,
        9 * 4 * rows * columns,  # reads and writes p, m, v and the average; reads the gradient
    )


def torch_rates(width: float, batch: int) -> Turn:
    """The best rates that torch reaches here; its fused step does not maintain an average."""
    import torch

    torch.set_num_threads(THREADS)
    rows, columns = sum(input_sizes(width)), q_sizes(width)[0]
    some = few_columns(width, batch)
    x, w = torch.ones(batch, rows), torch.ones(rows, some)
    parameter = torch.nn.Parameter(torch.ones(rows, columns))
    parameter.grad = torch.ones(rows, columns)
    fused = torch.optim.AdamW([parameter], lr=1e-5, fused=True)
    return rates_turn(lambda: x @ w, 2 * batch * rows * some, fused.step, 7 * 4 * rows * columns)


def few_columns(width: float, batch: int) -> int:
    """How many columns keep a product below about a second; the rate is the same as with all of them."""
    return min(q_sizes(width)[0], round(5e10 / (2 * batch * sum(input_sizes(width)))))


def rates_turn(product: Callable[[], Any], flops: int, memory: Callable[[], Any], size: int) -> Turn:
    """A turn that measures [FLOP/s, bytes/s], each the best of three; one round is run at once, as a warm-up."""

    def timed(f: Callable[[], Any]) -> float:
        start = time.perf_counter()
        f()
        return time.perf_counter() - start

    def turn() -> tuple[int, float]:
        gemm = max(flops / timed(product) for _ in range(3))
        turn.rates = (gemm, max(size / timed(memory) for _ in range(3)))  # type: ignore[attr-defined]
        return 1, gemm

    timed(product), timed(memory)
    return turn


def stored_features(np: Any, observation: int, pair: int, rows: int = 512) -> tuple[dict, dict]:
    """``rows`` transitions with random features; at least one batch, since a batch cannot be larger than the data."""
    rng, t = np.random.default_rng(0), np.arange(rows)
    done = t % 8 == 7
    transitions = {
        "obs": t,
        "next_obs": np.where(done, -1, t + 1),
        "reward": (done * rng.integers(0, 2, rows)).astype(np.float32),
        "terminated": done,
        "truncated": np.zeros(rows, bool),
        "episode": t // 8,
    }
    features = {
        "observation": rng.normal(size=(rows, observation)).astype(np.float32),
        "pair": rng.normal(size=(rows, pair)).astype(np.float32),
        "candidate_row": t[:, None],
    }
    return transitions, features


def jax_turn(step: Callable[[Any, Any], Any], state: Any, steps: int) -> Turn:
    """A turn that threads a donated state through ``step``; one turn is taken at once, to compile and warm up."""
    import jax

    key = jax.random.PRNGKey(1)

    def turn() -> tuple[int, float]:
        nonlocal state, key
        key, use = jax.random.split(key)
        start = time.perf_counter()
        state = jax.block_until_ready(step(state, use))
        return steps, time.perf_counter() - start

    turn()
    return turn


CONTESTANTS: dict[str, Callable[..., Turn]] = {
    "digiq_iql": digiq_iql,
    "learner_iql": learner_iql,
    "d3rlpy_iql": d3rlpy_iql,
    "digiq_heads": digiq_heads,
    "torch_heads": torch_heads,
    "population": population,
    "jax_rates": jax_rates,
    "torch_rates": torch_rates,
}


# --- taking turns ----------------------------------------------------------------------------------------------------


class Contestant(NamedTuple):
    """One participant: the name of a function in :data:`CONTESTANTS`, and its arguments."""

    name: str
    arguments: tuple[tuple[str, Any], ...]
    framework: str
    """Contestants of one framework share a process."""

    @classmethod
    def of(cls, framework: str, name: str, **arguments: Any) -> "Contestant":
        return cls(name, tuple(arguments.items()), framework)


class Process:
    """A framework's process, which answers each order with one line; a context manager."""

    def __init__(self, framework: str):
        from digiq.memory import KEEP  # as stages run; d3rlpy's process does not need the package

        python = d3rlpy_python() if framework == "d3rlpy" else sys.executable
        environment = os.environ | KEEP | {"OMP_NUM_THREADS": str(THREADS), "PYTHONWARNINGS": "ignore"}
        # Huge pages for all contestants, since they touch gigabytes.
        environment |= {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
        if framework == SMALL:
            environment |= {"JAX_COMPILATION_CACHE_DIR": str(COMPILED)}
        self._log = COMPILED.with_name(f"{framework}.log")
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                [str(python), __file__, "--serve"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
            )
        self._framework, self._building = framework, 0

    def build(self, contestant: Contestant) -> None:
        """Orders a contestant to be built and warmed up, without waiting for it."""
        self._order(contestant)
        self._building += 1

    def wait(self) -> None:
        """Waits until everything ordered is built."""
        for _ in range(self._building):
            self._answer()
        self._building = 0

    def turn(self, contestant: Contestant) -> Any:
        """Seconds per update in one burst, or whatever else the contestant measures."""
        self._order(contestant)
        return self._answer()

    def _order(self, contestant: Contestant) -> None:
        assert self._process.stdin is not None
        order = [contestant.name, dict(contestant.arguments)]
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("> "):
                return json.loads(line[2:])
        end = self._process.wait()
        raise RuntimeError(f"{self._framework}: ended without an answer (exit {end}); see {self._log}.")

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


def serve() -> None:
    """The process's side: the first order for a contestant builds it, later ones take a turn."""
    turns: dict[str, Turn] = {}
    for order in sys.stdin:
        if order not in turns:
            name, arguments = json.loads(order)
            turns[order] = CONTESTANTS[name](**arguments)
            found = None
        else:
            updates, seconds = turns[order]()
            found = getattr(turns[order], "rates", None) or seconds / updates
        print("> " + json.dumps(found), flush=True)


class Ring:
    """Runs the turns, with all contestants alive or one at a time."""

    def __init__(self, stack: contextlib.ExitStack, alone: bool):
        self._stack, self._alone = stack, alone
        self._processes: dict[str, Process] = {}

    def prepare(self, *contestants: Contestant) -> None:
        """Orders these contestants to be built and warmed up, side by side; does nothing if each must be alone."""
        for one in () if self._alone else contestants:
            if one.framework not in self._processes:
                self._processes[one.framework] = self._stack.enter_context(Process(one.framework))
            self._processes[one.framework].build(one)

    def wait(self) -> None:
        """Waits until everything is built."""
        for process in self._processes.values():
            process.wait()

    def rounds(self, count: int, *contestants: Contestant) -> list[list[Any]]:
        """Measurements of each contestant, taken in turns."""
        rounds = [[self._turn(one) for one in contestants] for _ in range(count)]
        return [list(column) for column in zip(*rounds, strict=True)]

    def _turn(self, one: Contestant) -> Any:
        if not self._alone:
            return self._processes[one.framework].turn(one)
        with Process(one.framework) as process:
            process.build(one)
            process.wait()
            return process.turn(one)


def median_ratio(slow: list[float], fast: list[float]) -> float:
    """Median over rounds of the ratio of ``slow`` to ``fast``."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def fastest(rounds: list[list[float]], counts: list[int]) -> tuple[list[float], int]:
    """The rounds with the lowest median among those with each number of threads, and that number."""
    return min(zip(rounds, counts, strict=True), key=lambda pair: statistics.median(pair[0]))


def d3rlpy_python() -> Path:
    """Python of an environment with d3rlpy's pins; all other packages come from this environment."""
    python, stamp = D3RLPY / "bin" / "python", D3RLPY / "packages.txt"
    wanted = "\n".join(_D3RLPY_PACKAGES)
    if not (stamp.exists() and stamp.read_text(encoding="utf-8") == wanted):
        venv.create(D3RLPY, with_pip=False, symlinks=True, clear=True)
        site = next((D3RLPY / "lib").glob("python3*")) / "site-packages"
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site)]
        subprocess.run([*pip, *_D3RLPY_PACKAGES], check=True)
        own = next(p for p in sys.path if p.endswith("site-packages"))
        (site / "zz_shared.pth").write_text(own + "\n", encoding="utf-8")
        stamp.write_text(wanted, encoding="utf-8")
    return python


def measure(quick: bool, width: float) -> Iterator[tuple[str, float, str]]:
    """Yields (metric, value, remark)."""
    turns, few, burst = (2, 1, 200) if quick else (9, 3, 1000)
    iql = Contestant.of(SMALL, "digiq_iql", steps=burst)
    learner = Contestant.of(SMALL, "learner_iql", steps=burst)
    counts = sorted({1, THREADS})
    d3rlpy = {
        part: [Contestant.of("d3rlpy", "d3rlpy_iql", steps=burst // 10, part=part, threads=n) for n in counts]
        for part in ("sampling", "critic", "whole")
    }
    at_once, in_sequence = (
        Contestant.of(SMALL, "population", size=8, steps=burst // 8, vectorised=vectorised)
        for vectorised in (True, False)
    )
    ours = {
        batch: Contestant.of(
            "jax", "digiq_heads", width=width, batch=batch, steps=steps, warm=batch == 32 or not quick
        )
        for batch, steps in {32: 3 if quick else 6, 256: 2 if quick else 3, 2048: 1}.items()
    }
    upstream = Contestant.of("torch", "torch_heads", width=width, batch=32, steps=1, encoders=True)
    heads = [Contestant.of("torch", "torch_heads", width=width, batch=32, steps=1, threads=n) for n in counts]
    compiled = Contestant.of("torch", "torch_heads", width=width, batch=32, steps=1, compiled=True)
    rates = {
        framework: [
            Contestant.of(framework, f"{framework}_rates", width=width, batch=batch) for batch in (256, 2048)
        ]
        for framework in ("jax", "torch")
    }

    q, v = weights(width)
    parameters = 2 * (q + v)
    # Forward, two backward products (one in the first layer, whose input needs no gradient), and the target's forward.
    observation, pair = input_sizes(width)
    first_q, first_v = (observation + pair) * q_sizes(width)[0], observation * v_sizes(width)[0]
    flops_per_row = 2 * 2 * (4 * (q + v) - first_q - first_v)
    encoder_flops = 2 * 85e6 * (44 * 3 + 44 + 30)
    learner_size = 5 * 4 * parameters  # parameters, target, two moments and a gradient, float32
    memory_size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.ExitStack() as stack:
        small = Ring(stack, alone=False)
        large = Ring(stack, alone=True) if 3 * learner_size > 0.5 * memory_size else small
        small.prepare(*itertools.chain(*d3rlpy.values()), learner, iql, at_once, in_sequence)
        # Among the large ones, torch's first, which wait for memory more than for cores, then JAX's; if both were built
        # together, the threads of one would spin while the other's use the cores.
        large.prepare(
            upstream, *heads, compiled, *rates["torch"]
        )  # with encoders first, since the others share their heads
        large.wait()
        large.prepare(*ours.values(), *rates["jax"])
        for ring in (large, small):
            ring.wait()

        a, c, *found = small.rounds(turns, learner, iql, *itertools.chain(*d3rlpy.values()))
        halves = iter(found)
        sampling, critic, whole = ([next(halves) for _ in counts] for _ in d3rlpy)
        (critic, threads), (whole, _), (sampling, _) = (
            fastest(each, counts) for each in (critic, whole, sampling)
        )
        yield "iql_updates_per_second", 1 / statistics.median(a), "the Learner, sampling included"
        remark = f"IQL's critic, 256-256, batch 256; d3rlpy with {threads} thread{'s' * (threads > 1)}"
        yield "vs_d3rlpy", median_ratio(critic, a), remark
        yield "vs_d3rlpy_whole", median_ratio(whole, c), "with an actor, ours composed in one scan"
        share = statistics.median(sampling) / (statistics.median(sampling) + statistics.median(whole))
        yield "d3rlpy_sampling", share, "its share of an update with it; in neither ratio"

        first = large.rounds(few, ours[32], *heads, compiled, upstream)
        best, threads = fastest(first[1 : 1 + len(heads)], counts)
        chosen = heads[counts.index(threads)]
        further = large.rounds(turns - few, ours[32], chosen)
        a, b = first[0] + further[0], best + further[1]
        remark = (
            f"{parameters / 1e6:.0f} M parameters, {statistics.median(a):.2f} s; torch with {threads} threads"
        )
        yield "vs_torch_heads", median_ratio(b, a), remark
        yield "vs_torch_compiled", median_ratio(first[-2], first[0]), "its loss under torch.compile"
        ratio = 1 + encoder_flops / flops_per_row
        yield "vs_upstream_shape", median_ratio(first[-1], first[0]), f"{ratio:.1f}x the FLOPs"

        # The long turn first: with --quick, it warms the short one up.
        b, a, *found = large.rounds(few, ours[2048], ours[256], *itertools.chain(*rates.values()))
        for i, (batch, seconds) in enumerate({256: a, 2048: b}.items()):
            at_batch = itertools.chain(*found[i::2])  # the best rates of the run, from either framework
            gemm, memory = map(max, zip(*at_batch, strict=True))
            least = batch * flops_per_row / gemm + 9 * 4 * parameters / memory
            remark = f"{gemm / 1e9:.0f} GFLOP/s, {memory / 1e9:.1f} GB/s"
            yield f"roofline_{batch}", least / statistics.median(seconds), remark

        a, b = small.rounds(turns, at_once, in_sequence)
        yield "population_speedup", median_ratio(b, a), "8 critics of 128-128"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="half-width heads and few turns: about a minute")
    parser.add_argument("--width", type=float, help="width of the heads as a share of upstream's")
    parser.add_argument("--anyway", action="store_true", help="report on a busy machine too")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve()
        return
    metrics = {}
    with Quiet(arguments.anyway) as quiet:
        for name, value, remark in measure(
            arguments.quick, arguments.width or (0.5 if arguments.quick else 1.0)
        ):
            metrics[name] = round(value, 3)
            print(f"{name:<24}{value:>10.3g}   {remark}", flush=True)
    versions = {
        name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "torch", "optax", "flax")
    }
    hardware = f"{platform.machine()}, {THREADS} cores, others used {quiet.busy:.0%}"
    print(
        json.dumps(
            {"benchmark": "critic_updates", "metrics": metrics, "hardware": hardware, "versions": versions}
        )
    )


if __name__ == "__main__":
    main()
