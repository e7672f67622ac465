"""Variations drawn by Optuna, which learns from the trials before (TPE; Bergstra et al. 2011).

Its study lies in the search's folder as a journal, which several processes and hosts may share.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from jtl.search import space
from jtl.search.space import Candidate
from jtl.search.trials import Trial

JOURNAL, STUDY = "optuna.log", "jtl"
_SIZES, _PLAN = "sizes", "trial"
"""What the study keeps: the input sizes to choose from; of trials of the plan, their numbers."""
MISSING = (
    "Optuna isn't installed, so the search ends after its fixed plan. Install it with: "
    "pip install 'jtl[search]'."
)


def available() -> bool:
    """Whether Optuna can be imported."""
    try:
        with _quietly():
            import optuna  # noqa: F401
    except ImportError:
        return False
    return True


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without what Optuna says of features that it calls experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Sampler:
    """Draws variations and takes their results."""

    def __init__(
        self,
        folder: Path,
        seed: int,
        sizes: tuple[int, ...],
        heads: tuple[str, ...] = ("linear",),
        warm_up: int = 5,
        model: str | None = None,
    ):
        """Opens the study in a folder, or begins one.

        Args:
            folder: The search's.
            seed: Of what is drawn, together with how many trials there are already.
            sizes: Input sizes to choose from, the default one first.
            heads: Heads to choose from, the default one first.
            warm_up: Trials before which variations are drawn without a model of what is good.
            model: The backbone, if it is another than the first.
        """
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        self._optuna, self._sizes, self._heads, self._model = optuna, sizes, heads, model
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with _quietly():
            self._study = optuna.create_study(
                storage=JournalStorage(JournalFileBackend(str(folder / JOURNAL))),
                study_name=STUDY,
                load_if_exists=True,
                direction="maximize",
                sampler=optuna.samplers.TPESampler(
                    seed=seed, multivariate=True, constant_liar=True, n_startup_trials=warm_up
                ),
                pruner=optuna.pruners.SuccessiveHalvingPruner(
                    min_resource=space.FEWEST_EPOCHS, reduction_factor=2
                ),
            )
        # Those that are there now may differ from those that the study was begun with.
        if (known := self._study.user_attrs.get(_SIZES)) is not None:
            self._sizes = tuple(known)
        elif not self._study.trials:
            self._study.set_user_attr(_SIZES, list(sizes))
        if self._study.trials:  # Or what was drawn before would be drawn again.
            self._study.sampler.reseed_rng()

    def take(self, plan: Sequence[Trial]) -> None:
        """Tells the study what the plan reached, and has it try next to the best of it first.

        What it knows already stays: of a search that goes on, or of several processes, some
        trials of the plan end later.
        """
        if self._study.trials and not self._known_plan():
            return  # Of an earlier version, which told it everything when it began.
        create = self._optuna.trial.create_trial
        choices = space.choices(self._sizes, self._heads)
        kinds = {
            name: self._optuna.distributions.CategoricalDistribution(values)
            for name, values in choices.items()
        }
        plan = [trial for trial in plan if trial.metric is not None]
        new = [trial for trial in plan if trial.number not in self._known_plan()]
        if not new:
            return
        with _quietly():
            for trial in new:
                params = space.parameters(trial.options, trial.epochs, choices)
                number, value = {_PLAN: trial.number}, trial.metric
                self._study.add_trial(
                    create(params=params, distributions=kinds, value=value, user_attrs=number)
                )
            best = max(plan, key=lambda trial: trial.metric or 0.0)
            for params in space.neighbours(space.parameters(best.options, best.epochs, choices)):
                self._study.enqueue_trial(params, skip_if_exists=True)

    def _known_plan(self) -> set[int]:
        """The numbers of the plan's trials that the study has."""
        return {t.user_attrs[_PLAN] for t in self._study.trials if _PLAN in t.user_attrs}

    def ask(self) -> tuple[Candidate, int]:
        """A variation, and its number in the study."""
        with _quietly():
            trial = self._study.ask()
            choices = space.choices(self._sizes, self._heads)
            drawn = {name: trial.suggest_categorical(name, list(choices[name])) for name in choices}
        candidate = space.with_model(space.varied(drawn, self._sizes[0]), self._model)
        return candidate, trial.number

    def pruning(self, number: int) -> Callable[[int, float], bool]:
        """Takes a trial's metric after an epoch, and says whether to end it there.

        Successive halving: of the trials that get so far, the better half goes on.

        Args:
            number: The trial's number in the study.
        """
        import optuna

        with _quietly():
            trial = optuna.trial.Trial(self._study, self._identity(number))

        def report(epoch: int, metric: float) -> bool:
            with _quietly():
                trial.report(metric, epoch)
                return trial.should_prune()

        return report

    def _identity(self, number: int) -> int:
        """The number that the study's storage has for a trial."""
        return next(t._trial_id for t in self._study.trials if t.number == number)

    def tell(self, trial: Trial) -> None:
        """Takes what has become of a trial that was drawn."""
        assert trial.sampled is not None
        states = self._optuna.trial.TrialState
        with _quietly():
            if trial.metric is None:
                self.refuse(trial.sampled)
            else:
                self._study.tell(
                    trial.sampled, trial.metric, state=states.COMPLETE, skip_if_finished=True
                )

    def refuse(self, number: int, metric: float | None = None) -> None:
        """Takes that a trial was not trained, or was before with a known result."""
        states = self._optuna.trial.TrialState
        with _quietly():
            state = states.FAIL if metric is None else states.COMPLETE
            self._study.tell(number, metric, state=state, skip_if_finished=True)
