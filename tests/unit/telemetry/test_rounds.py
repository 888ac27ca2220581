"""Asking all workers for their metrics: who waits for whom, and for how long."""

from __future__ import annotations

from hotstart_proxy.telemetry.gathering import Across, Family, Sample, Snapshot
from hotstart_proxy.telemetry.rounds import Rounds, Step

NOTHING = Step((), ())


def told(count: float, now: float = 1.0) -> Snapshot:
    """Return the metrics of a worker that has counted so much, and whose gauge says so much."""
    return (
        Family("c", "counter", "", (Sample("c_total", (), count),)),
        Family("g", "gauge", "", (Sample("g", (), now),)),
    )


def figures(step: Step) -> dict[tuple[int, int], dict[str, float]]:
    """Return counter and gauge of every reply, by worker and question."""
    return {
        (reply.worker, reply.question): {
            sample.name: sample.value for family in reply.snapshot for sample in family.samples
        }
        for reply in step.replies
    }


def made(*workers: int) -> Rounds:
    rounds = Rounds(lambda: (), {"g": Across.SUM}, deadline_seconds=1.0)
    for worker in workers:
        rounds.joined(worker)
    return rounds


def test_all_answer() -> None:
    """Everybody is asked, the asker too; when the last has answered the asker gets the sum."""
    rounds = made(1, 2)
    rounds.asked(2, 7)
    assert rounds.step(0.0) == Step((1, 2), ())
    assert rounds.deadline == 1.0
    rounds.answered(1, told(10))
    assert rounds.step(0.1) == NOTHING
    rounds.answered(2, told(5))
    assert figures(rounds.step(0.2)) == {(2, 7): {"c_total": 15, "g": 2}}
    assert rounds.deadline is None
    assert rounds.step(0.3) == NOTHING


def test_what_the_parent_counts_is_in_it() -> None:
    """The parent's own metrics are merged with the workers'."""
    rounds = Rounds(lambda: told(100, 0), {"g": Across.SUM}, deadline_seconds=1.0)
    rounds.joined(1)
    rounds.asked(1, 1)
    rounds.step(0.0)
    rounds.answered(1, told(1))
    assert figures(rounds.step(0.0)) == {(1, 1): {"c_total": 101, "g": 1}}


def test_a_question_during_a_round_waits_for_the_next() -> None:
    """So its answer has what was counted before it was asked; several that wait share one round."""
    rounds = made(1)
    rounds.asked(1, 1)
    rounds.step(0.0)
    rounds.asked(1, 2)
    rounds.asked(1, 3)
    assert rounds.step(0.0) == NOTHING
    rounds.answered(1, told(1))
    step = rounds.step(0.1)
    assert step.ask == (1,)
    assert figures(step) == {(1, 1): {"c_total": 1, "g": 1}}
    rounds.answered(1, told(2))
    assert figures(rounds.step(0.2)) == {(1, question): {"c_total": 2, "g": 1} for question in (2, 3)}


def test_a_silent_worker_keeps_its_counts() -> None:
    """At the deadline its last counts stay in the sum, its gauges do not, and nobody waits for it again."""
    rounds = made(1, 2)
    rounds.asked(1, 1)
    rounds.step(0.0)
    rounds.answered(1, told(1))
    rounds.answered(2, told(10))
    rounds.step(0.0)
    rounds.asked(1, 2)
    rounds.step(5.0)
    rounds.answered(1, told(2))
    assert rounds.step(5.9) == NOTHING
    assert figures(rounds.step(6.0)) == {(1, 2): {"c_total": 12, "g": 1}}
    rounds.asked(1, 3)
    assert rounds.step(7.0) == Step((1,), ())
    rounds.answered(1, told(3))
    assert figures(rounds.step(7.0)) == {(1, 3): {"c_total": 13, "g": 1}}


def test_a_worker_that_answers_late_is_asked_again() -> None:
    """What it said counts from then on, and the next round waits for it as for the others."""
    rounds = made(1, 2)
    rounds.asked(1, 1)
    rounds.step(0.0)
    rounds.answered(1, told(1))
    rounds.step(1.0)
    rounds.answered(2, told(10))
    rounds.asked(1, 2)
    assert rounds.step(2.0).ask == (1, 2)
    rounds.answered(1, told(1))
    rounds.answered(2, told(20))
    assert figures(rounds.step(2.0)) == {(1, 2): {"c_total": 21, "g": 2}}


def test_nobody_but_silent_ones() -> None:
    """Where all still owe an answer, the reply is at once what is known."""
    rounds = made(1)
    rounds.asked(1, 1)
    rounds.step(0.0)
    assert figures(rounds.step(1.0)) == {(1, 1): {}}
    rounds.asked(1, 2)
    assert figures(rounds.step(1.1)) == {(1, 2): {}}


def test_counts_of_workers_that_are_gone_stay() -> None:
    """A sum never falls because a worker was replaced; a round does not wait for one that is gone."""
    rounds = made(1, 2)
    rounds.answered(2, told(10))
    rounds.asked(1, 1)
    rounds.step(0.0)
    rounds.answered(1, told(1))
    rounds.left(2)
    rounds.joined(3)
    assert figures(rounds.step(0.1)) == {(1, 1): {"c_total": 11, "g": 1}}
    rounds.asked(1, 2)
    assert rounds.step(0.2).ask == (1, 3)
    rounds.answered(1, told(2))
    rounds.answered(3, told(5))
    assert figures(rounds.step(0.3)) == {(1, 2): {"c_total": 17, "g": 2}}


def test_last_words() -> None:
    """What a worker says unasked, at its end, is what stays of it, though it had answered in this round."""
    rounds = made(1, 2)
    rounds.asked(1, 1)
    rounds.step(0.0)
    rounds.answered(2, told(10))
    rounds.answered(2, told(12))
    rounds.left(2)
    rounds.answered(1, told(1))
    assert figures(rounds.step(0.1)) == {(1, 1): {"c_total": 13, "g": 1}}


def test_an_asker_that_is_gone() -> None:
    """Nobody answers it, and the round goes on for the others."""
    rounds = made(1, 2)
    rounds.asked(1, 1)
    rounds.asked(2, 1)
    rounds.step(0.0)
    rounds.asked(1, 2)
    rounds.left(1)
    rounds.answered(2, told(1))
    assert figures(rounds.step(0.1)) == {(2, 1): {"c_total": 1, "g": 1}}
    assert rounds.step(0.2) == NOTHING
