"""What else the images of the val split could have said: of a row, and of two rows' difference.

Every evaluation leaves resamples.json, its figures in 1000 resamples of the val images, always the
same ones. So the means over seeds and the differences of rows can be had resample by resample, on
the same images on both sides: a paired bootstrap (Efron & Tibshirani 1993, chapter 8).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, quantiles

from launch.results.table_rows import Row, untrained_rivals


@dataclass(frozen=True)
class Gain:
    """What a trained row has more than the best untrained one. seeds: each of its seeds by itself.
    interval: 95 % of the resamples; None where the two were not judged on the same images, or by
    code that left no resamples."""

    rival: Row
    value: float
    seeds: tuple[float, ...]
    interval: tuple[float, float] | None

    @property
    def is_sure(self) -> bool:
        """Whether all seeds and, as far as known, the images of the resamples agree."""
        known = [*self.seeds, *(self.interval or ())]
        return all(number > 0 for number in known) or all(number < 0 for number in known)

    def text(self) -> str:
        """In points, and its interval: +1.2 (+0.4 to +2.0)."""
        value, *ends = (f"{100 * share:+.1f}" for share in (self.value, *(self.interval or ())))
        return f"{value} ({' to '.join(ends)})" if ends else value


def interval(row: Row, key: str) -> tuple[float, float] | None:
    """[low, high] of a row's figure, the mean over its seeds."""
    ends = _ends(_mean_of(row, key))
    if ends or len(row.done) != 1:
        return ends
    # A run of before there were such files.
    known = (row.done[0].result["metrics"].get("intervals") or {}).get(key)
    return (known[0], known[1]) if known else None


def gain(row: Row, rows: Sequence[Row], key: str) -> Gain | None:
    """A trained row against the untrained one that is best in this figure, of those that are given
    the same input. None if there is none, or the figure is missing."""
    own = row.figure(key)
    rivals = [(f.mean, other) for other in untrained_rivals(row, rows) if (f := other.figure(key))]
    if own is None or not rivals:
        return None
    best, rival = max(rivals, key=lambda pair: pair[0])
    pairs = zip(_mean_of(row, key), _mean_of(rival, key), strict=False)
    differences = [None if a is None or b is None else a - b for a, b in pairs]
    alike = {o.resamples.get("images") for o in (*row.done, *rival.done)}
    seeds = tuple(float(o.metric(key) or 0) - best for o in row.done)
    ends = _ends(differences) if len(alike) == 1 else None
    return Gain(rival, own.mean - best, seeds, ends)


def _mean_of(row: Row, key: str) -> list[float | None]:
    """Resample by resample the mean over the seeds, None where one of them has none; [] if they
    were not judged on the same images."""
    if len({outcome.resamples.get("images") for outcome in row.done}) != 1:
        return []
    columns = zip(*(o.resamples.get("figures", {}).get(key, []) for o in row.done), strict=False)
    return [None if None in values else fmean(values) for values in columns]


def _ends(values: Sequence[float | None]) -> tuple[float, float] | None:
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return None
    cuts = quantiles(known, n=40, method="inclusive")
    return cuts[0], cuts[-1]
