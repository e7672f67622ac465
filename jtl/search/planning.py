"""The order in which a search tries things: probes, backbones, the plan, variations."""

from __future__ import annotations

from collections.abc import Mapping

from jtl.common.quantities import format_seconds
from jtl.models import registry
from jtl.search import sampling, space
from jtl.search.space import Candidate
from jtl.search.trial_loop import Engine
from jtl.search.workload import Workload
from jtl.train.setup import Setup, head_fits

SHORTEST = 5.0
"""Seconds that a linear probe takes at least."""
SLOW_RATE = 1e10
"""Operations a second of a slow machine."""
_TEST_SECONDS = 4.0
"""To load the winner and compile what scores it, beside the computation."""
_ENSEMBLE_SHARE = 0.05
"""The most of the budget that is reserved for scoring an ensemble on the test images."""


def try_all(
    engine: Engine, workloads: Mapping[str, Workload], setups: Mapping[str, Setup], *, single: bool
) -> str:
    """The plan, then its variations.

    Args:
        engine: Trains.
        workloads: Of every backbone, the first one's first.
        setups: A linear probe of each of them.
        single: Whether trials will not be combined.

    Returns:
        The backbone that the plan went on with.
    """
    base, display, budget = engine.base, engine.display, engine.budget
    first = next(iter(setups))
    probes = {name: space.probe(_fitted_how(engine, setups[name])) for name in setups}
    engine.learn()
    _warn_of_probe(engine, workloads[first], probes[first])
    engine.run([probes[first]])
    if engine.cost.forward_rate is None:  # Its features were cached, or it failed.
        engine.cost.forward_rate = workloads[first].measured_rate()
    if setups[first].dataset.test is not None:
        budget.closing = _TEST_SECONDS + workloads[first].closing() / engine.cost.forward_rate
    engine.resume()
    chosen = _promising(engine, probes)
    setup, other = setups[chosen], None if chosen == first else chosen
    if other is not None and setup.dataset.test is not None:
        budget.closing = _TEST_SECONDS + workloads[chosen].closing() / engine.cost.forward_rate

    def run(candidates: list[Candidate]) -> None:
        engine.run([space.with_model(candidate, other) for candidate in candidates])

    size = setup.inputs.device.size
    other_sizes: list[Candidate] = []
    if base.data.image_size is None and base.data.upsample is None and _is_linear(engine):
        least = getattr(registry.get(chosen).backbone, "min_size", 32)
        other_sizes = space.sizes(probes[chosen], size, least)
    run(other_sizes)
    heads = space.HEADS if base.model.head == "linear" else (base.model.head,)
    if len(heads) > 1:
        run(space.heads())
    plan = [space.with_model(candidate, other) for candidate in space.strategies()]
    engine.run(engine.largest_first(plan))
    # Better known by now is what they take, and nothing has to be left for another one.
    run(space.strategies(whole=True))
    if budget.closing and not single:
        budget.closing += min(2 * budget.closing, _ENSEMBLE_SHARE * budget.total)
    if sampling.available():
        engine.settle(space.with_model(candidate, other) for candidate in other_sizes)
        _vary(engine, size, heads, other)
    else:
        display.message(f"note: {sampling.MISSING}")
    return chosen


def try_together(
    engine: Engine, workloads: Mapping[str, Workload], setups: Mapping[str, Setup], *, single: bool
) -> str:
    """As `try_all`, beside other processes: with what these find, more may be worth to begin."""
    while True:
        known = len(engine.store.with_models())
        chosen = try_all(engine, workloads, setups, single=single)
        if not engine.others_finish(known):
            return chosen


def _is_linear(engine: Engine) -> bool:
    return engine.base.model.head in ("linear", "append")


def _fitted_how(engine: Engine, setup: Setup) -> dict[str, str]:
    """How the linear probe of a backbone is fitted."""
    fits = _is_linear(engine) and head_fits(engine.base, setup.variables, setup.dataset)
    return {"solver": "lbfgs"} if fits else {}


def _promising(engine: Engine, probes: Mapping[str, Candidate]) -> str:
    """The backbone to go on with: of those whose probes are better, the best with `last_stage`.

    Successive halving: each has a linear probe, the better half (two at least) also `last_stage`.
    """
    first, *others = probes
    tried = space.backbones({name: probes[name] for name in others})
    engine.run(tried)
    engine.settle([probes[first], *tried] if tried else [])
    known = [name for name in probes if reached(engine, first, name) > float("-inf")]
    if len(known) < 2:
        return first
    ranked = sorted(known, key=lambda name: -reached(engine, first, name))
    good = ranked[: max(2, (len(ranked) + 1) // 2)]
    short = [candidate for candidate in space.strategies() if candidate.name == "last_stage"]
    tried = [space.with_model(c, None if name == first else name) for name in good for c in short]
    engine.run(tried)
    engine.settle(tried)
    chosen = max(good, key=lambda name: reached(engine, first, name))
    engine.display.message(
        f"Of {len(known)} backbones {chosen} is the best so far; the search goes on with it"
    )
    return chosen


def reached(engine: Engine, first: str, name: str) -> float:
    """The best metric of a backbone's probe and `last_stage`; minus infinity without one."""
    found = [
        trial.metric
        for trial in engine.store.read()
        if trial.counts
        and trial.stage in ("probe", "backbone", "plan")
        and trial.options.get("model", first) == name
    ]
    return max((value for value in found if value is not None), default=float("-inf"))


def _vary(engine: Engine, size: int, heads: tuple[str, ...], model: str | None) -> None:
    """Draws variations, of what has a backbone other than the first if one is named."""
    trials = [t for t in engine.store.read() if t.counts and t.options.get("model") == model]
    probes = ("probe", "backbone")
    floor = next((t.metric or 0.0 for t in trials if t.stage in probes), 0.0)
    good = [
        trial.options["image_size"]
        for trial in trials
        if trial.stage == "size" and (trial.metric or 0.0) > floor
    ]
    seed = engine.base.train.seed
    with engine.store.locked():  # Another process may be about to begin the same study.
        sampler = sampling.Sampler(engine.folder, seed, (size, *good), heads, model=model)
        sampler.take([trial for trial in trials if trial.stage == "plan"])
    engine.vary(sampler)


def _warn_of_probe(engine: Engine, workload: Workload, probe: Candidate) -> None:
    """Says where the linear probe, which is trained in any case, will not fit in the time."""
    if not engine.store.read() and engine.budget.left < SHORTEST:
        engine.display.message(
            f"warning: {format_seconds(engine.budget.total)} are hardly enough to start, and for "
            "nothing but the linear probe, which is trained all the same. Use a longer --budget."
        )
    work, epochs = workload.of(probe.options)
    if work.features / SLOW_RATE < max(engine.budget.left, 10.0):
        return  # Too little to be worth a measurement.
    engine.cost.forward_rate = engine.cost.forward_rate or workload.measured_rate()
    seconds = engine.cost.seconds(work, epochs)
    if seconds > engine.budget.left:
        engine.display.message(
            f"warning: the linear probe alone is predicted to take {format_seconds(seconds)}, more "
            "than the time that is left, and it is trained all the same. Use a longer --budget, a "
            "smaller --image-size or fewer images."
        )
