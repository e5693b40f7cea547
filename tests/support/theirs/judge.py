"""How a run of their tests ended, held against its list."""

from dataclasses import dataclass, field

from .lists import LEFT_OUT, NOT_RUN, Entry, Listing
from .plugin import OUTSIDE, SEARCHED


@dataclass
class Verdict:
    """Faults: what is not as listed. News: what is left out and need not be."""

    faults: list[str] = field(default_factory=list)
    news: list[str] = field(default_factory=list)
    passed: int = 0
    searched: int = 0

    def __str__(self) -> str:
        count = f"{self.passed} of their tests pass, {self.searched} of them through topk"
        return "\n".join([count, *self.faults, *self.news])


def judge(listing: Listing, ends: dict[str, dict]) -> Verdict:
    """Every test that was met must be in the list, and everything in the list met, as it says."""
    verdict = Verdict()
    met: dict[Entry, dict[str, dict]] = {entry: {} for entry in listing.entries}
    for test, end in ends.items():
        if entry := listing.entry_for(test):
            met[entry][test] = end
        else:
            verdict.faults.append(f"{test} is in no list: {_told(end)}")
    for entry, group in met.items():
        _judge_entry(entry, group, verdict)
    return verdict


def _judge_entry(entry: Entry, group: dict[str, dict], verdict: Verdict) -> None:
    through = [end for end in group.values() if end["end"] == "passed" and end["reach"] > OUTSIDE]
    failures = {test: end for test, end in group.items() if end["end"] == "failed"}
    if entry.verdict == NOT_RUN:
        verdict.faults += [f"{test} is listed as not run, and was" for test in group]
    elif not group:
        verdict.faults.append(f"{entry.test} is listed, and is none of their tests")
    elif entry.verdict == LEFT_OUT:
        if len(through) == len(group):
            verdict.news.append(f"{entry} - and passes")
    else:
        verdict.faults += [
            f"{test} is listed as passing: {_told(failures[test])}" for test in failures
        ]
        verdict.passed += len(through)
        verdict.searched += sum(end["reach"] == SEARCHED for end in through)
        if not through and not failures:
            verdict.faults.append(f"{entry.test} is listed as passing: {_told(*group.values())}")


def _told(end: dict, *others: dict) -> str:
    if end["end"] == "passed":
        return "passes" + (" without coming to our code" if end["reach"] == OUTSIDE else "")
    return f"{end['end']}: {end['why']}"
