"""From posteriors to events: as a plain loop says it, for every way of cutting the stream."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wavecast.apps.keywords.decisions import Decider, Timing

CLASSES = ("_unknown_", "yes", "no", "_silence_")
REJECTED = ("_unknown_", "_silence_")
STEP = 0.125
TIMING = Timing(STEP, 0.5, 1.0)


def definition(posteriors, thresholds, averaged, refractory, early):
    """The events as word, decision, confidence, and the decision with which they come."""
    events, best, last, said = [], None, -refractory, set()

    def tell(now):
        events.append((*best, now))
        said.add(best[0])
        return best[1]

    for k in range(len(posteriors)):
        window = posteriors[max(0, k - averaged + 1) : k + 1]
        average = {one: sum(row[i] for row in window) / averaged for i, one in enumerate(CLASSES)}
        word = max(("yes", "no"), key=lambda one: average[one])
        found = word in thresholds and average[word] >= thresholds[word] and word not in said
        found = found and all(average[one] < average[word] for one in REJECTED)
        if best and not (found and average[word] > best[2]):
            last = tell(k)
            best = None
        if found and word not in said and (best or k - last >= refractory):
            best = (word, k, average[word])
        if best and early:
            last = tell(k)
            best = None
        said = {one for one in said if average[one] >= thresholds[one]}
    if best:
        tell(len(posteriors) - 1)
    return events


def rows(text):
    """Make posteriors of "yes" from digits, tenths each."""
    posteriors = np.zeros((len(text), len(CLASSES)))
    posteriors[:, 1] = [int(digit) / 10 for digit in text]
    return posteriors


def decide(posteriors, thresholds=None, cuts=(), **options):
    decider = Decider(CLASSES, {"yes": 0.5, "no": 0.5} if thresholds is None else thresholds, TIMING, **options)
    pieces = np.split(posteriors, sorted(cuts))
    return [event for piece in pieces for event in decider.push(piece)] + decider.flush()


def times(events):
    return [round((event.time - TIMING.first) / STEP) for event in events]


tables = st.lists(st.tuples(*[st.integers(0, 8)] * len(CLASSES)), max_size=40)
levels = st.sampled_from([0.25, 0.5, 0.75, 1.0])
wanted = st.dictionaries(st.sampled_from(["yes", "no"]), levels, min_size=1)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(tables, wanted, st.integers(1, 4), st.integers(0, 6), st.booleans(), st.lists(st.integers(0, 40), max_size=6))
def test_events_are_those_of_the_definition_however_the_stream_is_cut(table, thresholds, averaged, gap, early, cuts):
    posteriors = np.array(table, float).reshape(-1, len(CLASSES)) / 8
    options = {"smoothing": averaged * STEP, "refractory": gap * STEP, "early": early}
    events = decide(posteriors, thresholds, [min(cut, len(table)) for cut in cuts], **options)
    found = [(one.word, round((one.time - TIMING.first) / STEP), one.confidence) for one in events]
    assert [(*one, round(e.latency / STEP) + one[1]) for one, e in zip(found, events, strict=True)] == definition(
        posteriors.tolist(), thresholds, averaged, gap, early
    )
    assert all(b - a >= gap for a, b in zip(times(events), times(events)[1:], strict=False))
    assert all(one.start == max(0, one.time - 1) for one in events)


def test_a_word_comes_once_at_its_peak_or_early():
    posteriors = rows("0136899765541000")
    (event,) = decide(posteriors, smoothing=0)
    assert (event.word, event.confidence, times([event]), event.latency) == ("yes", 0.9, [5], STEP)
    (event,) = decide(posteriors, smoothing=0, early=True)
    assert (event.confidence, times([event]), event.latency) == (0.6, [3], 0)


def test_the_same_word_needs_a_pause_another_one_only_the_refractory_time():
    assert times(decide(rows("09898989898989"), smoothing=0, refractory=2 * STEP)) == [1]
    assert times(decide(rows("090909090909"), smoothing=0, refractory=2 * STEP)) == [1, 3, 5, 7, 9, 11]
    assert times(decide(rows("090909090909"), smoothing=0, refractory=5 * STEP)) == [1, 7]
    posteriors = rows("09999999")
    posteriors[4:, 2] = 1
    found = decide(posteriors, smoothing=0, refractory=2 * STEP)
    assert [(event.word, *times([event])) for event in found] == [("yes", 1), ("no", 4)]


@pytest.mark.parametrize("rejected", [0, 3])
def test_rejected_classes_win_and_are_no_events(rejected):
    posteriors = rows("0999900")
    posteriors[:, rejected] = 0.9
    assert decide(posteriors, smoothing=0) == []
    posteriors[:, rejected] = 0.89
    assert len(decide(posteriors, smoothing=0)) == 1
    thresholds = {"yes": 1.0, "no": 1.0, **dict.fromkeys(REJECTED, 0.1)}
    assert decide(posteriors, thresholds, smoothing=0) == []


def test_a_word_that_is_not_wanted_keeps_others_back():
    posteriors = rows("0666000")
    posteriors[:, 2] = 0.9
    assert decide(posteriors, {"yes": 0.5}, smoothing=0) == []
    posteriors[:, 2] = 0.5
    assert [event.word for event in decide(posteriors, {"yes": 0.5}, smoothing=0)] == ["yes"]


def test_every_word_has_its_threshold():
    assert decide(rows("0077700"), {"yes": 0.71, "no": 0.1}, smoothing=0) == []
    assert len(decide(rows("0077700"), {"yes": 0.7, "no": 1.0}, smoothing=0)) == 1


def test_a_single_high_posterior_is_averaged_away():
    assert decide(rows("0009000"), smoothing=3 * STEP) == []
    (event,) = decide(rows("0009990"), smoothing=3 * STEP)
    assert event.confidence == pytest.approx(0.9)


def test_before_the_stream_nothing_is_said():
    """A window with a frame or two in it may look like anything."""
    assert decide(rows("9000000"), smoothing=2 * STEP) == []
    (event,) = decide(rows("9990000"), smoothing=2 * STEP)
    assert (event.confidence, *times([event])) == (0.9, 1)


def test_latency_counts_from_what_was_heard_when_the_event_came():
    decider = Decider(CLASSES, {"yes": 0.5}, TIMING, smoothing=0, channel=2)
    assert decider.push(rows("09"), heard=0.8) == []
    (event,) = decider.push(rows("0"), heard=1.0)
    assert (event.time, event.latency, event.channel) == (0.625, 0.375, 2)


def test_what_waits_at_the_end_comes_and_the_next_stream_is_new():
    decider = Decider(CLASSES, {"yes": 0.5}, TIMING, smoothing=0)
    for _ in range(2):
        assert decider.push(rows("0068")) == []
        (event,) = decider.flush(heard=2.0)
        assert (event.confidence, *times([event]), event.latency) == (0.8, 3, 2.0 - 0.875)
        assert decider.flush() == []


def test_numbers_that_are_none_are_no_words_and_spoil_no_later_ones():
    posteriors = np.concatenate([rows("00"), np.full((2, len(CLASSES)), np.nan), rows("00990")])
    assert times(decide(posteriors, smoothing=2 * STEP)) == [7]


def test_posteriors_of_other_classes_are_refused():
    decider = Decider(CLASSES, {"yes": 0.5}, TIMING)
    with pytest.raises(ValueError, match=r"expected \(decision, 4\), got \(3, 5\)"):
        decider.push(np.zeros((3, 5)))
