"""Numbers and findings in words, for the terminal and the page alike."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from dirprune.core.wording import counted, plain
from dirprune.core.wording import percent as percent  # noqa: PLC0414 - handed on
from dirprune.core.wording import size as size  # noqa: PLC0414 - handed on
from dirprune.report.reading import Status, Warned
from dirprune.report.summary import Spread, VariantSummary

CLOSE = 0.01  # a point of accuracy: up to this far below SGD, a setting counts as keeping the accuracy
NOTHING = "\u2013"
MINUS = "\u2212"
_NBSP = "\u00a0"
GRAVE = ("collapse", "outgrown", "not learning")
"""Warnings that say that a run has come to nothing; the others say why, or what may come."""
_NAMED = 3  # layers, beside the first, that a warning names
_TROUBLES: tuple[Status, ...] = ("diverged", "failed", "unfinished")


def spread(value: Spread | None, digits: int = 2) -> str:
    """Write mean ± standard deviation of fractions in per cent; a dash stands for nothing."""
    if value is None:
        return NOTHING
    return percent(value.mean, digits) + _sd(value, digits)


def ranking(summary: VariantSummary) -> tuple[str, ...]:
    """Say what else is known of the accuracy, means in per cent: top-5; top-1, top-5 of the best epoch."""
    named = (("top-5", summary.top5), ("best", summary.best), ("top-5", summary.best_top5))
    return tuple(f"{name} {percent(value.mean)}" for name, value in named if value)


def points(value: Spread | None) -> str:
    """Write a difference of fractions in percentage points, with its sign.

    Example:
        >>> points(Spread.of([-0.01, -0.03])), points(Spread.of([0.0]))
        ('\u22122.00 ± 1.41', '0.00')
    """
    if value is None:
        return NOTHING
    return _signed(value.mean) + _sd(value, 2)


def loss(value: float) -> str:
    """Write a loss with two significant figures, from one on with two decimals.

    Example:
        >>> loss(2.2984), loss(0.31416), loss(0.000012)
        ('2.30', '0.31', '1.2e-5')
    """
    if math.isfinite(value) and abs(value) >= 1:
        return f"{value:.2f}"
    if not math.isfinite(value) or value == 0 or abs(value) >= 0.001:
        return f"{value:.2g}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def factor(summary: VariantSummary) -> str:
    """Say how a variant's sparse file compares with the dense float32 one."""
    if summary.sparse_bytes is None or summary.dense_bytes is None:
        return ""
    ratio = summary.dense_bytes.mean / summary.sparse_bytes.mean
    if 0.95 < ratio < 1.05:
        return "as dense"
    times = max(ratio, 1 / ratio)
    return f"{times:.{0 if times >= 10 else 1}f}x {'smaller' if ratio > 1 else 'larger'}"


def duration(seconds: float) -> str:
    """Write a time.

    Example:
        >>> duration(12.34), duration(250), duration(3000), duration(11520)
        ('12.3 s', '4.2 min', '50 min', '3.2 h')
    """
    if not seconds >= 59.95:
        return f"{seconds:.1f} s"
    value, unit = (seconds / 60, "min") if seconds < 59.5 * 60 else (seconds / 3600, "h")
    return f"{value:.{0 if value >= 9.95 else 1}f} {unit}"


def seeds(summary: VariantSummary) -> str:
    """Say how many of a variant's runs finished, and what became of the others.

    Returns:
        For instance "3/3" or "2/3, 1 diverged".
    """
    others = [(sum(run.status == word for run in summary.runs), word) for word in _TROUBLES]
    parts = [f"{len(summary.finished)}/{len(summary.runs)}", *(f"{n} {word}" for n, word in others if n)]
    return ", ".join(parts)


def measured_on(summaries: Sequence[VariantSummary]) -> str:
    """Say which data the accuracies are measured on: test, validation, or some on each."""
    return " or ".join(sorted({summary.measured_on for summary in summaries}))


def warnings(summaries: Sequence[VariantSummary]) -> list[str]:
    """List what training found amiss, each thing once, with the variant and the seeds it happened to.

    What ends a run comes first; what happened to several layers alike is one line.
    """
    found: dict[tuple[str, Warned], list[int]] = {}
    for summary in summaries:
        for run in summary.runs:
            for warned in run.warnings:
                found.setdefault((summary.label, warned), []).append(run.seed)
    alike: dict[tuple[str, str, str], list[Warned]] = {}
    for (label, warned), seeds in found.items():
        told = f"{label}, seed{'' if len(seeds) == 1 else 's'} {', '.join(map(str, seeds))}"
        rest = warned.message.replace(warned.where, "", 1) if warned.where else warned.message
        alike.setdefault((told, warned.kind, rest), []).append(warned)
    lines = [
        (kind, f"{told}: {plain(same[0].message)}" + _likewise([each.where for each in same[1:]]))
        for (told, kind, _), same in alike.items()
    ]
    return [line for _, line in sorted(lines, key=lambda line: line[0] not in GRAVE)]


def _likewise(layers: Sequence[str]) -> str:
    """Name more layers that a warning is true of, the first few of them."""
    more = f" and {len(layers) - _NAMED} more" if len(layers) > _NAMED else ""
    return f" (likewise {', '.join(layers[:_NAMED])}{more})" if layers else ""


# -- findings ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Headline:
    """The result in a sentence, what to know beside it, and the variant it is about (None without one)."""

    sentence: str
    notes: tuple[str, ...]
    subject: VariantSummary | None


def headline(summaries: Sequence[VariantSummary]) -> Headline:
    """State the result of an experiment in words, whatever it is.

    Args:
        summaries: From :func:`~dirprune.report.summary.summarise`.

    Returns:
        A sentence and notes, as plain text with no-break spaces.
    """
    candidates = [s for s in summaries if s.method != "sgd" and s.test_accuracy and s.sparsity]
    dense = [s for s in summaries if s.method == "sgd" and s.test_accuracy]
    subject, choice = _choose(candidates)
    if subject:
        sentence = _pruned_sentence(
            subject, subject.label if len(candidates) > 1 else subject.label.split()[0]
        )
    elif dense:
        sentence = _dense_sentence(dense)
    else:
        return Headline(f"No run has finished: {_troubles(summaries)}.", (), None)
    notes = [choice, _pairs_note(subject) if subject else "", _troubles_note(summaries)]
    return Headline(sentence, tuple(note for note in notes if note), subject)


def _choose(candidates: Sequence[VariantSummary]) -> tuple[VariantSummary | None, str]:
    """Single out one variant, and say by which rule."""
    if len(candidates) < 2:
        return (candidates[0] if candidates else None), ""
    count = f"{len(candidates)}{_NBSP}settings"
    paired = [(s.difference.mean, s) for s in candidates if s.difference]
    close = [s for gap, s in paired if gap >= -CLOSE and not s.diverged]
    if close:
        rule = f"It is the sparsest of {count} that stay within 1{_NBSP}point of SGD and never diverged."
        return max(close, key=_zeros), rule
    if paired:
        rule = (
            f"None of {count} both stays within 1{_NBSP}point of SGD and never diverged; this comes closest."
        )
        return max(paired, key=lambda pair: pair[0])[1], rule
    return max(candidates, key=_zeros), f"It is the sparsest of {count}."


def _pruned_sentence(subject: VariantSummary, name: str) -> str:
    accuracy = f"{subject.measured_on} accuracy"
    removed = f"{name} removed {percent(_zeros(subject), 1)}{_NBSP}% of the weights"
    own = _percentage(subject.test_accuracy)
    twin = subject.twin if subject.twin and subject.twin.test_accuracy else None
    if twin is None:
        return (
            f"{removed} and reached {own} {accuracy} ({_count(len(subject.finished), 'seed')}); "
            "there is no finished SGD run of the same settings to compare it with."
        )
    cost = ""
    if subject.difference and subject.difference.mean < -CLOSE:
        cost = f" at a cost of {-100 * subject.difference.mean:.1f}{_NBSP}points"
    own_seeds, twin_seeds = (_count(len(s.finished), "seed") for s in (subject, twin))
    between = "" if own_seeds == twin_seeds else f" ({own_seeds})"
    versus = f"{_percentage(twin.test_accuracy)} for SGD ({twin_seeds})"
    return f"{removed}{cost}; {accuracy} {own}{between} against {versus}."


def _dense_sentence(dense: Sequence[VariantSummary]) -> str:
    reached = [
        f"{s.label} reached {_percentage(s.test_accuracy)} {s.measured_on} accuracy "
        f"({_count(len(s.finished), 'seed')})"
        for s in dense
    ]
    return f"{'; '.join(reached)}. There is no finished pruning run to compare with it."


def _pairs_note(subject: VariantSummary) -> str:
    if subject.difference is None:
        return ""
    gaps = subject.difference.values
    better, worse = sum(gap > 0 for gap in gaps), sum(gap < 0 for gap in gaps)
    if len(gaps) == 1:
        return f"The difference to SGD of the same seed is {points(subject.difference)}{_NBSP}points."
    counts = ((better, "better"), (len(gaps) - better - worse, "equal"), (worse, "worse"))
    tally = ", ".join(f"{word} in {count}" for count, word in counts if count)
    return (
        f"Paired by seed, the difference to SGD is {points(subject.difference)}{_NBSP}points: "
        f"{tally} of {_count(len(gaps), 'pair')}."
    )


def _troubles_note(summaries: Sequence[VariantSummary]) -> str:
    runs = _count(sum(len(summary.runs) for summary in summaries), "run")
    troubles = _troubles(summaries)
    return troubles and f"Of {runs}: {troubles}; means are over finished runs alone."


def _troubles(summaries: Sequence[VariantSummary]) -> str:
    states = Counter(run.status for summary in summaries for run in summary.runs)
    parts = [f"{states[word]} {word}" for word in _TROUBLES if states[word]]
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


def _zeros(summary: VariantSummary) -> float:
    return summary.sparsity.mean if summary.sparsity else 0.0


def _percentage(value: Spread | None) -> str:
    return spread(value, 1).replace(" ", _NBSP) + f"{_NBSP}%"


def _count(number: int, noun: str) -> str:
    return counted(number, noun).replace(" ", _NBSP)


def _signed(fraction: float) -> str:
    text = f"{100 * fraction:+.2f}"
    return "0.00" if text in ("+0.00", "-0.00") else text.replace("-", MINUS)


def _sd(value: Spread, digits: int) -> str:
    return "" if value.sd is None else f" ± {100 * value.sd:.{digits}f}"
