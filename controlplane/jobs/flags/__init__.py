"""slime's flags, and those of Megatron and SGLang: from a command line to a job spec."""

from controlplane.jobs.flags.report import Entry, Outcome, Report
from controlplane.jobs.flags.translate import Translation, translate

__all__ = ["Entry", "Outcome", "Report", "Translation", "translate"]
