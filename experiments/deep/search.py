"""The hyperparameter search: equal budgets in passes over the data, on the validation split alone.

Optuna's tree-structured Parzen estimator proposes settings; successive halving trains all of them briefly, the best
longer, and the best of these as long as in the tables, with two seeds. Every rung is a run of its own with a whole
schedule. Where the best setting touches a bound, that bound is moved and the search goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from typing import Any

import numpy as np

from experiments.deep import plans, spaces
from experiments.deep.config import Config
from experiments.deep.evaluate import METRICS
from experiments.registry import Context, Outcome
from fenchel.errors import missing


@dataclass(frozen=True)
class Plan:
    """Draws for ``first`` epochs, the best ``kept`` for ``longer``, the best ``finalists`` as long as in the tables.

    For methods of two passes; those of one pass get twice as many of each. ``widenings`` at most.
    """

    draws: int = 32
    first: int = 10
    kept: int = 8
    longer: int = 30
    finalists: int = 2
    seeds: int = 2
    widenings: int = 1

    def of(self, config: Config) -> Plan:
        """The plan for a method, equal in passes."""
        factor = 2 // config.passes
        return replace(self, draws=self.draws * factor, kept=self.kept * factor, finalists=self.finalists * factor)


PLANS = {"quick": Plan(2, 1, 1, 1, 1, 1, 1), "full": Plan()}
Measured = list[tuple[Config, dict[str, float]]]


class _Entry:
    """The search for one method: Optuna's study, the space as it is now, and what was measured in each rung."""

    def __init__(self, context: Context, model: str, entry: str, plan: Plan) -> None:
        try:
            import optuna
        except ImportError as error:
            raise missing("the search", "Optuna", "experiments") from error
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._optuna, self.context, self.model, self.name = optuna, context, model, entry
        start = replace(spaces.base(model, entry), select=True, seed=context.seed)
        self.start = plans.prepared(start, context)
        self.plan, self.space = plan.of(self.start), spaces.SPACES[entry]
        sampler = optuna.samplers.TPESampler(
            seed=context.seed, n_startup_trials=max(2, 2 * self.plan.draws // 3), constant_liar=True
        )
        self._study = optuna.create_study(sampler=sampler, direction="minimize")
        self._trials: dict[str, Any] = {}
        self.rungs: list[Measured] = [[], [], []]
        self.edges: list[dict[str, int]] = []

    def ask(self, count: int) -> list[Config]:
        """New settings, for the first rung."""
        floats: dict[str, Any] = {
            n: self._optuna.distributions.FloatDistribution(*r, log=True) for n, r in self.space.items()
        }
        found = []
        for _ in range(count):
            trial = self._study.ask(floats)
            values = {name: float(f"{value:.3g}") for name, value in trial.params.items()}
            config = self._longer(spaces.with_values(self.start, values), self.plan.first)
            self._trials[config.key()] = trial
            found.append(config)
        return found

    def tell(self, measured: Measured) -> None:
        """The first rung's results: the validation error counts; what diverged failed."""
        for config, metrics in measured:
            trial, error = self._trials.pop(config.key(), None), 1 - metrics["accuracy"]
            if trial is not None and np.isfinite(error):
                self._study.tell(trial, error)
            elif trial is not None:
                self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)
        self.rungs[0] += measured

    def second(self) -> list[Config]:
        """The best of the first rung, longer."""
        return [self._longer(c, self.plan.longer) for c in self._best(0, self.plan.kept)]

    def third(self) -> list[Config]:
        """The best of the second, as long as in the tables, with several seeds."""
        best = [self._longer(c, plans.epochs(self.model, self.context)) for c in self._best(1, self.plan.finalists)]
        return [replace(c, seed=c.seed + k) for c in best for k in range(self.plan.seeds)]

    def chosen(self) -> Config | None:
        """The best of the third rung by its mean over seeds; None if everything diverged."""
        groups: dict[Config, list[dict[str, float]]] = {}
        for config, metrics in self.rungs[2]:
            groups.setdefault(replace(config, seed=self.context.seed), []).append(metrics)
        means = [(c, {m: float(np.mean([x[m] for x in many])) for m in METRICS}) for c, many in groups.items()]
        order = spaces.ranked(means, plans.held_out(self.context))
        return order[0] if order else None

    def _best(self, rung: int, count: int) -> list[Config]:
        return spaces.ranked(self.rungs[rung], plans.held_out(self.context))[:count]

    def _longer(self, config: Config, epochs: int) -> Config:
        return replace(config, epochs=min(epochs, plans.epochs(self.model, self.context)))

    def log(self) -> list[dict[str, Any]]:
        """Every run: settings, epochs, seed, validation metrics."""
        best = self.chosen()
        return [
            {
                "entry": self.name,
                "rung": rung + 1,
                "epochs": config.epochs,
                "seed": config.seed,
                **{name: getattr(config, name) for name in self.space},
                **metrics,
                "chosen": best is not None and replace(config, seed=best.seed) == best,
            }
            for rung, measured in enumerate(self.rungs)
            for config, metrics in measured
        ]


def _plan(context: Context, model: str, names: Sequence[str]) -> Plan:
    """The plan of the scale; beside a stored search of the paper's methods that search's own, for equal budgets."""
    stored = plans.search_settings(model) if context.scale == "full" and tuple(names) == spaces.EXTRAS else {}
    return Plan(**{field.name: stored[field.name] for field in fields(Plan)}) if stored else PLANS[context.scale]


def outcome(context: Context, model: str, names: Sequence[str]) -> Outcome:
    """Search for the methods called ``names`` on the task of ``model`` and keep the whole log."""
    plan = _plan(context, model, names)
    entries = [_Entry(context, model, name, plan) for name in names]
    active = list(entries)
    for widening in range(plan.widenings + 1):
        # Two thirds at random, the rest by what these have shown; after a widening half as many.
        for share in (2, 1):
            counts = {e.name: -(-share * e.plan.draws // (3 if widening == 0 else 6)) for e in active}
            _measure(context, {e.name: e.ask(counts[e.name]) for e in active}, active, 0)
        _measure(context, {e.name: e.second() for e in active}, active, 1)
        _measure(context, {e.name: e.third() for e in active}, active, 2)
        touched = []
        for e in active:
            best = e.chosen()
            edges = {} if best is None else spaces.at_edges(best, e.space)
            e.edges.append(edges)
            if edges and widening < plan.widenings:
                e.space = spaces.widened(e.space, edges)
                touched.append(e)
        active = touched
    chosen = {e.name: {n: getattr(best, n) for n in e.space} for e in entries if (best := e.chosen()) is not None}
    runs = [(config, metrics) for e in entries for rung in e.rungs for config, metrics in rung]
    return Outcome(
        settings={
            **asdict(plan),
            "epochs": plans.epochs(model, context),
            "device": ", ".join(sorted({row["device"] for row in plans.rows_of(context, [c for c, _ in runs])})),
            "spaces": {e.name: dict(spaces.SPACES[e.name]) for e in entries},
            "spaces at the end": {e.name: dict(e.space) for e in entries},
            "split": "a fixed sixth of the training set is held out; the test set is never read",
            "rule": "highest validation accuracy; within one standard error of it, the lowest validation NLL",
        },
        numbers={
            "chosen": chosen,
            "at the edge in the end": {e.name: e.edges[-1] for e in entries},
            "epochs of passes": {e.name: sum(c.epochs * c.passes for r in e.rungs for c, _ in r) for e in entries},
            "diverged": {e.name: sum(not np.isfinite(m["nll"]) for r in e.rungs for _, m in r) for e in entries},
            "log": [line for e in entries for line in e.log()],
        },
    )


def _measure(context: Context, wanted: Mapping[str, Sequence[Config]], entries: Sequence[_Entry], rung: int) -> None:
    """Train what is wanted of all entries together, and give each its results."""
    everything = [config for configs in wanted.values() for config in configs]
    rows = {row["key"]: row for row in plans.execute(context, everything)}
    for e in entries:
        known = {config.key() for config, _ in e.rungs[rung]}
        new = {c.key(): c for c in wanted[e.name] if c.key() not in known}
        measured = [(c, {m: float(plans.headline(rows[key])[m]) for m in METRICS}) for key, c in new.items()]
        if rung == 0:
            e.tell(measured)
        else:
            e.rungs[rung] += measured


RUNS = {
    f"search_{model.replace('-', '_')}{suffix}": partial(outcome, model=model, names=names)
    for model in spaces.TASKS
    for suffix, names in (("", spaces.PAPERS), ("_extra", spaces.EXTRAS))
}
