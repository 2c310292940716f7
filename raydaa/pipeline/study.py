"""A study that runs: what programs and the command line hold in their hands."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from raydaa import study

if TYPE_CHECKING:
    from raydaa.reporting.results import TrialResults


@dataclass(frozen=True)
class Study(study.Study):
    """A checked study. ``tree`` is what its author wrote, with overrides applied."""

    def run(self, address: str | None = None) -> "TrialResults":
        """Run what is not done yet; called again after whatever happened it goes on.

        Args:
            address: A Ray cluster's, as ``auto``; None starts Ray on this machine and stops it at the end.

        Returns:
            The results, which also lie in `folder`.

        Raises:
            InputError: Where the study or its data can't be used, or a stage can't go on.
        """
        from raydaa.guest import as_guest
        from raydaa.pipeline.run import run_study
        from raydaa.threads import outside_event_loop

        with as_guest():
            return outside_event_loop(run_study, self, address)
