"""Every objective against an independent NumPy solver of its fixed point, and the properties all of them share.

What is parametrised by ``NAMES``, ``CASES`` or ``ONE_CASE`` runs over every entry of ``OBJECTIVES``.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax

from digiq.critics.learner import CriticConfig, Learner, train
from digiq.critics.objectives import OBJECTIVES
from digiq.critics.objectives.iql import IQL
from digiq.critics.objectives.nstep import n_step_return
from digiq.critics.objectives.td_lambda import lambda_return
from digiq.critics.train import fit_critic
from digiq.critics.training_data import Needs, gather, prepare
from digiq.errors import ConfigError, DigiQError

STATES, ACTIONS, GAMMA = 5, 3, 0.9
NAMES = list(OBJECTIVES)
TRUE_Q = np.random.default_rng(8).random((STATES, ACTIONS))
TRUE_V = TRUE_Q.max(1)
"""What is said to be true, unlike anything that these visits lead to."""


@dataclasses.dataclass
class Visits:
    """Logged visits of a random MDP, episodes contiguous; ``following[t]`` is the next state, -1 at the end."""

    state: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    following: np.ndarray
    last: np.ndarray
    """Row of the last visit of the episode."""
    order: np.ndarray
    """[T, ACTIONS]: the stored candidates, the logged one first."""


def sample_visits(chain: bool = False, episodes: int = 60) -> Visits:
    rng = np.random.default_rng(3)
    move = rng.dirichlet(np.full(STATES, 0.5), size=(STATES, ACTIONS))
    rows = []
    for _ in range(episodes):
        start, s = len(rows), int(rng.integers(STATES))
        while True:
            a = int(rng.integers(ACTIONS))
            if chain:  # right, stay, or fall off; the right end pays
                done = a == 2 or s == STATES - 1
                reward, s2 = float(s == STATES - 1), s + (a == 0)
            else:
                done = rng.random() < 0.25
                reward, s2 = done * rng.random(), int(rng.choice(STATES, p=move[s, a]))
            rows.append([s, a, reward, -1 if done else s2, start])
            if done:
                break
            s = s2
    state, action, reward, following, start = (np.array(c) for c in zip(*rows, strict=True))
    last = np.array([np.flatnonzero(start == k).max() for k in start])
    order = np.array([[a, *rng.permutation([b for b in range(ACTIONS) if b != a])] for a in action])
    return Visits(state, action, reward.astype(np.float32), following, last, order)


def as_arrays(visits: Visits) -> tuple[dict, dict]:
    count = len(visits.state)
    episode = np.unique(visits.last, return_inverse=True)[1]
    ends = visits.following < 0
    transitions = {
        "obs": np.arange(count),
        "next_obs": np.where(ends, -1, np.arange(count) + 1),
        "reward": visits.reward,
        "terminated": ends,
        "truncated": np.zeros(count, bool),
        "episode": episode,
    }
    features = {
        "observation": np.eye(STATES, dtype=np.float32)[visits.state],
        "pair": np.eye(STATES * ACTIONS, dtype=np.float32),
        "candidate_row": visits.state[:, None] * ACTIONS + visits.order,
        "known_q": TRUE_Q[visits.state[:, None], visits.order],
        "known_v": TRUE_V[visits.state],
    }
    return transitions, features


def solve(visits: Visits, name: str, settings: dict) -> tuple[np.ndarray, np.ndarray]:
    """Q[S, A] and V[S] at the objective's fixed point, by iterating its two conditional optima in NumPy."""
    if name == "exact":
        return TRUE_Q, TRUE_V
    s, a, r, after = visits.state, visits.action, visits.reward.astype(float), visits.following
    count = np.zeros((STATES, ACTIONS))
    np.add.at(count, (s, a), 1)
    returns = np.zeros(len(s))
    for t in reversed(range(len(s))):
        returns[t] = r[t] + (0 if t == visits.last[t] else GAMMA * returns[t + 1])

    def mean_by_pair(y: np.ndarray) -> np.ndarray:
        total = np.zeros((STATES, ACTIONS))
        np.add.at(total, (s, a), y)
        return total / count

    def targets(v: np.ndarray) -> np.ndarray:
        next_v = np.where(after < 0, 0.0, v[after])
        if name == "mc":
            return returns
        if name not in ("nstep", "td_lambda"):
            return r + GAMMA * next_v
        n = settings.get("steps", settings.get("window"))
        lam = settings.get("lambda_", 1.0)
        out = np.zeros(len(s))
        for t in range(len(s)):
            stop = min(t + n - 1, visits.last[t])
            g = next_v[stop]
            for k in range(stop, t - 1, -1):
                g = r[k] + (0 if after[k] < 0 else GAMMA * ((1 - lam) * next_v[k] + lam * g))
            out[t] = g
        return out

    def improve_q(v: np.ndarray, q: np.ndarray) -> np.ndarray:
        y = targets(v)
        if name not in ("cql", "cal_ql"):
            return mean_by_pair(y)
        alpha, heat = settings["alpha"], settings["penalty_temperature"]
        new = q.copy()
        for state in range(STATES):
            here = np.flatnonzero(s == state)

            def objective(x: np.ndarray, here: np.ndarray = here) -> float:
                floor = returns[here, None] if name == "cal_ql" else -np.inf
                soft = (
                    heat * logsumexp(np.maximum(x, floor) / heat, axis=1)
                    if name == "cal_ql"
                    else heat * (logsumexp(x / heat))
                )
                return float(np.sum(0.5 * (x[a[here]] - y[here]) ** 2 + alpha * (soft - x[a[here]])))

            new[state] = minimize(
                objective, q[state], method="Powell", options={"xtol": 1e-6, "ftol": 1e-10}
            ).x
        return new

    def improve_v(q: np.ndarray, v: np.ndarray) -> np.ndarray:
        if name == "mc":
            return np.array([returns[s == k].mean() for k in range(STATES)])
        logged = [q[k, a[s == k]] for k in range(STATES)]
        if name == "iql":
            return np.array([expectile(x, settings["expectile"]) for x in logged])
        backup = settings.get("backup", "logged")
        if backup == "logged":
            return np.array([x.mean() for x in logged])
        if backup == "max":
            return q.max(1)
        heat = settings.get("temperature")
        weights = np.full_like(q, 1 / ACTIONS) if heat is None else softmax(q / heat, axis=1)
        return (weights * q).sum(1)

    q, v = np.zeros((STATES, ACTIONS)), np.zeros(STATES)
    for _ in range(40 if "ql" in name and name != "iql" else 400):
        q = improve_q(v, q)
        v = improve_v(q, v)
    return q, v


def expectile(x: np.ndarray, tau: float) -> float:
    low, high = x.min(), x.max()
    for _ in range(60):
        middle = (low + high) / 2
        pull = (np.where(x < middle, 1 - tau, tau) * (x - middle)).sum()
        low, high = (middle, high) if pull > 0 else (low, middle)
    return (low + high) / 2


CASES = {
    "td": ("td", {}),
    "td expectation": ("td", {"backup": "expectation"}),
    "td softmax": ("td", {"backup": "expectation", "temperature": 0.2}),
    "td max": ("td", {"backup": "max"}),
    "mc": ("mc", {}),
    "nstep": ("nstep", {"steps": 3}),
    "td_lambda": ("td_lambda", {"lambda_": 0.7, "window": 4}),
    "iql": ("iql", {"expectile": 0.8}),
    "cql": ("cql", {"alpha": 0.1, "penalty_temperature": 0.5, "backup": "expectation"}),
    "cal_ql": ("cal_ql", {"alpha": 0.1, "penalty_temperature": 0.5, "backup": "expectation"}),
    "exact": ("exact", {}),
    "exact logged": ("exact", {"actions": "logged"}),
}

ONE_CASE = [next((case for case in CASES if CASES[case][0] == name), name) for name in NAMES]


@functools.cache
def fixed_point(case: str, chain: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """:func:`solve` of a case, once; some take seconds."""
    return solve(sample_visits(chain), *CASES[case])


def linear(name: str, settings: dict, **changes: object) -> CriticConfig:
    heads = {"q_hidden": (), "v_hidden": (), "layer_norm": False, "q_input": "pair", "members": 2}
    base = {
        "objective": name,
        name: settings,
        "gamma": GAMMA,
        "heads": heads,
        "standardize": False,
        "epochs": 1,
        "steps_per_epoch": 4000,
        "batch_size": 10_000,
        "learning_rate": 0.02,
        "weight_decay": 0.0,
        "gradient_clip": None,
        "tau": 0.05,
    }
    return CriticConfig(**base | changes)


def learned_values(config: CriticConfig, arrays: tuple[dict, dict]) -> tuple[np.ndarray, np.ndarray]:
    """Q[E, S, A] and V[E, S] of every member after training."""
    data = prepare(*arrays, gamma=config.gamma, timeout=config.timeout, standardize=False)
    data = jax.device_put(data)
    learner = Learner(config)
    state = learner.init(jax.random.PRNGKey(0), data)
    for epoch in train(learner, state, learner.hyper(), data):
        state = epoch.state
    pairs, states = jnp.eye(STATES * ACTIONS), jnp.eye(STATES)
    q = learner.heads.q_value(state.params, jnp.zeros((STATES * ACTIONS, STATES)), pairs)
    v = learner.heads.v_value(state.params, states)
    return np.asarray(q).reshape(-1, STATES, ACTIONS), np.asarray(v)


def test_every_objective_has_a_fixed_point_to_reach():
    assert {name for name, _ in CASES.values()} == set(NAMES)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("problem", ["random MDP", "chain"])
def test_reaches_the_fixed_point_of_a_numpy_solver(problem, case):
    name, settings = CASES[case]
    chain = problem == "chain"
    q, v = fixed_point(case, chain)
    learned_q, learned_v = learned_values(linear(name, settings), as_arrays(sample_visits(chain)))
    assert np.ptp(q) > 0.05, "a constant solution would prove little"
    np.testing.assert_allclose(learned_q, np.stack([q, q]), atol=3e-3)
    np.testing.assert_allclose(learned_v, np.stack([v, v]), atol=3e-3)


@pytest.mark.parametrize("members", [1, 5])
def test_every_member_of_any_ensemble_reaches_it(members):
    visits = sample_visits()
    q, v = solve(visits, "td", {})
    config = linear("td", {})
    heads = dataclasses.replace(config.heads, members=members)
    learned_q, learned_v = learned_values(dataclasses.replace(config, heads=heads), as_arrays(visits))
    np.testing.assert_allclose(learned_q, np.stack([q] * members), atol=3e-3)
    np.testing.assert_allclose(learned_v, np.stack([v] * members), atol=3e-3)


def test_the_floor_of_cal_ql_moves_its_fixed_point():
    cql, cal_ql = (fixed_point(name)[0] for name in ("cql", "cal_ql"))
    assert np.abs(cql - cal_ql).max() > 0.03, "ten times the tolerance of the fixed points"


# The penalty of CQL and Cal-QL weighs against the regression, so with another loss it has another fixed point.
@pytest.mark.parametrize("case", [*(case for case in ONE_CASE if case not in ("cql", "cal_ql")), "td max"])
def test_histogram_heads_reach_the_same_fixed_point(case):
    q, v = fixed_point(case)
    config = linear(*CASES[case])
    heads = dataclasses.replace(config.heads, readout={"kind": "hl_gauss"})
    config = dataclasses.replace(config, heads=heads)
    learned_q, learned_v = learned_values(config, as_arrays(sample_visits()))
    np.testing.assert_allclose(learned_q, np.stack([q, q]), atol=1e-2)
    np.testing.assert_allclose(learned_v, np.stack([v, v]), atol=1e-2)


def test_classification_of_success_reaches_the_same_fixed_point():
    visits = sample_visits()
    q, v = solve(visits, "mc", {})
    config = linear("mc", {})
    heads = dataclasses.replace(config.heads, readout={"kind": "bernoulli"})
    learned_q, learned_v = learned_values(dataclasses.replace(config, heads=heads), as_arrays(visits))
    np.testing.assert_allclose(learned_q, np.stack([q, q]), atol=5e-3)
    np.testing.assert_allclose(learned_v, np.stack([v, v]), atol=5e-3)


@pytest.mark.parametrize("timeout", ["terminal", "bootstrap"])
@pytest.mark.parametrize("case", ONE_CASE)
def test_episodes_that_were_cut_off_end_or_bootstrap(case, timeout):
    """Every other episode runs out of steps in some state, whose value follows or does not; to observed returns it is all
    the same."""
    name, settings = CASES[case]
    visits = sample_visits()
    transitions, features = as_arrays(visits)
    cut = np.flatnonzero(transitions["terminated"])[::2]
    reached = (visits.state[cut] + 1) % STATES
    transitions["terminated"][cut], transitions["truncated"][cut] = False, True
    transitions["next_obs"][cut] = len(visits.state) + np.arange(len(cut))
    unlogged = reached[:, None] * ACTIONS + np.arange(ACTIONS)
    unlogged[:, 0] = -1
    features["observation"] = np.concatenate(
        [features["observation"], np.eye(STATES, dtype=np.float32)[reached]]
    )
    features["candidate_row"] = np.concatenate([features["candidate_row"], unlogged])
    for known in ("known_q", "known_v"):
        missing = np.full((len(cut), *features[known].shape[1:]), np.nan)
        features[known] = np.concatenate([features[known], missing])
    q, v = fixed_point(case)
    if timeout == "bootstrap":
        ended, visits.following[cut] = q, reached
        q, v = solve(visits, name, settings)
        assert (name not in ("mc", "exact")) == bool(np.abs(q - ended).max() > 0.05), (
            "it must make a difference"
        )
    learned_q, learned_v = learned_values(linear(name, settings, timeout=timeout), (transitions, features))
    np.testing.assert_allclose(learned_q, np.stack([q, q]), atol=3e-3)
    np.testing.assert_allclose(learned_v, np.stack([v, v]), atol=3e-3)


# Back-ups that read candidates, so that what must hold of candidates is put to the proof.
OVER_CANDIDATES = {
    name: {"backup": "max" if name == "td" else "expectation"}
    for name in NAMES
    if hasattr(OBJECTIVES[name], "backup")
}


@functools.cache
def small_problem(name: str, readout: str = "scalar"):
    """A learner with small smooth heads, two different parameter sets, and one batch of it."""
    config = CriticConfig(
        objective=name,
        **{"iql": {"v_bootstrap": "target"}, **OVER_CANDIDATES},
        heads={"q_hidden": (7,), "v_hidden": (6,), "activation": "silu", "readout": {"kind": readout}},
    )
    learner = Learner(config)
    data = prepare(*as_arrays(sample_visits(episodes=6)), gamma=GAMMA)
    shapes = jax.eval_shape(learner.init, jax.random.PRNGKey(0), data).params
    # Drawn anew: fresh last layers are zero, so every value would be one and the same, and most gradients 0.
    rng = np.random.default_rng(0)
    params, target = (
        jax.tree.map(lambda x: rng.normal(0, 0.7, x.shape).astype(np.float32), shapes) for _ in range(2)
    )
    values = jax.jit(learner.heads.v_value)(params, data.standardizer.observation(data.observation))
    assert np.ptp(values) > 0.05
    batch = gather(data, np.arange(8), learner.objective.needs)
    return learner, params, target, batch


LOSSES = [(name, readout) for name in NAMES for readout in ("scalar", "hl_gauss")]


@pytest.mark.parametrize(("name", "readout"), [*LOSSES, ("mc", "bernoulli")])
def test_gradient_equals_finite_differences_and_targets_get_none(name, readout):
    learner, params, target, batch = small_problem(name, readout)

    def loss(params, target):
        return learner.objective.loss(learner.heads, params, target, batch)[0]

    both = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    along_params, along_target = both(params, target)[1]
    assert all(not np.any(g) for g in jax.tree.leaves(along_target))
    rng = np.random.default_rng(0)
    for _ in range(3):
        direction = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), params)
        ahead, behind = (
            float(
                both(
                    jax.tree.map(lambda p, d, step=step: p + np.float32(step) * d, params, direction), target
                )[0]
            )
            for step in (1e-3, -1e-3)
        )
        slope = sum(jax.tree.leaves(jax.tree.map(np.vdot, along_params, direction)))
        np.testing.assert_allclose((ahead - behind) / 2e-3, slope, rtol=5e-3, atol=2e-3)


@pytest.mark.parametrize("name", NAMES)
def test_order_of_candidates_does_not_matter_and_missing_ones_do_not_count(name):
    """Of a batch that has candidates, needed or not; and an objective reads them where it says so."""
    learner, params, target, batch = small_problem(name)
    data = prepare(*as_arrays(sample_visits(episodes=6)), gamma=GAMMA)
    both = gather(data, np.arange(8), Needs(candidates=True))
    batch = batch._replace(candidates=both.candidates, mask=both.mask)
    loss = jax.jit(lambda b: learner.objective.loss(learner.heads, params, target, b)[0])
    others = batch._replace(candidates=batch.candidates + 1)
    assert (float(loss(others)) != float(loss(batch))) == learner.objective.needs.candidates
    turned = batch._replace(candidates=batch.candidates[:, ::-1], mask=batch.mask[:, ::-1])
    if batch.known_q is not None:
        turned = turned._replace(known_q=batch.known_q[:, ::-1])
    assert float(loss(turned)) == pytest.approx(float(loss(batch)), rel=1e-5)
    padded = batch._replace(
        candidates=np.concatenate([batch.candidates, np.full_like(batch.candidates[:, :1], 50.0)], 1),
        mask=np.pad(batch.mask, ((0, 0), (0, 1))),
    )
    if batch.known_q is not None:
        padded = padded._replace(known_q=np.pad(batch.known_q, ((0, 0), (0, 1)), constant_values=9.0))
    assert float(loss(padded)) == pytest.approx(float(loss(batch)), rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_members_learn_apart(name):
    """Targets are per twin: the loss of two members is the sum of what each has alone."""
    both, params, target, batch = small_problem(name)
    alone = Learner(dataclasses.replace(both.config, heads=dataclasses.replace(both.config.heads, members=1)))

    @functools.partial(jax.jit, static_argnums=0)
    def loss(learner, params, target):
        return learner.objective.loss(learner.heads, params, target, batch)[0]

    each = [
        float(loss(alone, *(jax.tree.map(lambda x, k=k: x[k : k + 1], tree) for tree in (params, target))))
        for k in range(2)
    ]
    assert float(loss(both, params, target)) == pytest.approx(sum(each), rel=1e-5)


@pytest.mark.parametrize("v_members", ["own", "min"])
def test_iql_of_clipped_twins(v_members):
    """V of each twin follows its own Q̄, or the lesser of both."""
    learner, params, target, batch = small_problem("iql")
    objective = IQL(expectile=0.8, v_members=v_members)
    value = jax.jit(
        lambda p: (
            learner.heads.q_value(p, batch.observation, batch.pair),
            learner.heads.v_value(p, batch.observation),
        )
    )
    q, v = np.asarray(value(target)[0]), np.asarray(value(params)[1])
    q = np.stack([q.min(0)] * 2) if v_members == "min" else q
    expected = (np.where(q < v, 0.2, 0.8) * 0.5 * (q - v) ** 2).mean(1).sum()
    _, info = jax.jit(lambda p, t: objective.loss(learner.heads, p, t, batch))(params, target)
    assert float(info["v_loss"]) == pytest.approx(expected, rel=1e-4)


def test_lambda_return_by_hand():
    reward, discount, value = jnp.array([0.0, 1.0]), jnp.array([0.5, 0.5]), jnp.array([4.0, 8.0])
    # second step: 1 + .5 * 8 = 5; first: 0 + .5 * (.75 * 4 + .25 * 5) = 2.125
    assert float(lambda_return(reward, discount, value, 0.25)) == pytest.approx(2.125)
    assert float(n_step_return(reward, discount, value[-1])) == pytest.approx(0.5 * (1 + 0.5 * 8))


def test_an_unknown_objective_is_named_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'td_lambda'"):
        CriticConfig(objective="td_lamda")
    with pytest.raises(ConfigError, match="less than 1"):
        CriticConfig(gamma=1.5)


def test_naming_one_setting_keeps_the_others():
    assert CriticConfig(cal_ql={"alpha": 0.3}).cal_ql.calibrated
    assert not CriticConfig(cql={"alpha": 0.3}).cql.calibrated


def test_what_is_not_known_is_not_regressed_on():
    """A state without values, and a candidate, leave the rest as they would be without them."""
    visits = sample_visits()
    transitions, features = as_arrays(visits)
    for hidden in (visits.state == 2, visits.state == 4):
        features["known_q"][hidden, 1:] = np.nan
    features["known_v"][visits.state == 2] = np.nan
    learned_q, learned_v = learned_values(linear("exact", {}), (transitions, features))
    seen = sorted({(s, a) for s, a in zip(visits.state, visits.action, strict=True)})
    rows, columns = np.array(seen).T
    np.testing.assert_allclose(learned_q[0][rows, columns], TRUE_Q[rows, columns], atol=3e-3)
    known = [0, 1, 3, 4]
    np.testing.assert_allclose(learned_v[0][known], TRUE_V[known], atol=3e-3)
    assert abs(learned_v[0][2] - TRUE_V[2]) > 0.05


def test_true_values_are_asked_for_and_checked():
    transitions, features = as_arrays(sample_visits(episodes=6))
    config = CriticConfig(objective="exact", gamma=GAMMA, epochs=1, steps_per_epoch=2)
    without = {name: array for name, array in features.items() if not name.startswith("known")}
    with pytest.raises(DigiQError, match="regresses on true values; give known_q"):
        fit_critic(transitions, without, config)
    with pytest.raises(DigiQError, match=r"known_q has shape \(.*\), but candidate_row asks for"):
        fit_critic(transitions, features | {"known_q": features["known_q"][:, :2]}, config)
    with pytest.raises(DigiQError, match="known_v holds Inf"):
        fit_critic(transitions, features | {"known_v": np.full_like(features["known_v"], np.inf)}, config)
    fit_critic(transitions, features, config)
