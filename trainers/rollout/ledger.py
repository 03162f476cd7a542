"""The accounts of one rollout: where every group that was started went. Pure."""

from dataclasses import dataclass


@dataclass(slots=True)
class Ledger:
    """Groups: each that was started is running, kept, dropped by a filter, or given back; never two of these."""

    target: int
    started: int = 0
    kept: int = 0
    dropped: int = 0
    given_back: int = 0
    resumed: int = 0
    """Of the started, those that had begun in an earlier rollout."""
    restarted: int = 0
    """Of the started, those that had begun too long ago and begin anew, in part at least."""
    given_back_tokens: int = 0
    """Sampled tokens of the given back, kept for a later rollout."""

    @property
    def running(self) -> int:
        return self.started - self.kept - self.dropped - self.given_back

    @property
    def wants_more(self) -> bool:
        """Whether too few groups are under way: a dropped one makes room for another."""
        return self.started - self.dropped < self.target

    @property
    def complete(self) -> bool:
        return self.kept == self.target

    def start(self, groups: int, *, resumed: int = 0, restarted: int = 0) -> None:
        self.started += groups
        self.resumed += resumed
        self.restarted += restarted

    def keep(self) -> None:
        assert self.running > 0 and not self.complete
        self.kept += 1

    def drop(self) -> None:
        assert self.running > 0
        self.dropped += 1

    def give_back(self, groups: int, *, tokens: int = 0) -> None:
        assert 0 <= groups <= self.running
        self.given_back += groups
        self.given_back_tokens += tokens

    def metrics(self) -> dict[str, float]:
        return {
            "num_groups_started": float(self.started),
            "num_groups_dropped": float(self.dropped),
            "num_groups_given_back": float(self.given_back),
            "num_groups_resumed": float(self.resumed),
            "num_groups_restarted": float(self.restarted),
            "num_tokens_carried_over": float(self.given_back_tokens),
        }
