"""Results that report themselves: what programs hold in their hands."""

from dataclasses import dataclass
from pathlib import Path

from raydaa import results


@dataclass(frozen=True)
class TrialResults(results.TrialResults):
    """All trials of a study folder."""

    def report(self, folder: Path | str) -> Path:
        """Write page, figures and tables.

        Args:
            folder: Where to; an older report there is replaced, other files stay.

        Returns:
            The page's path.
        """
        from raydaa.reporting.report import write_report

        return write_report(self, Path(folder))
