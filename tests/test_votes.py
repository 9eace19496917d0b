"""Blind votes: kept in the run, counted pair by pair with an interval."""

from lab import votes
from lab.run import new_run


def answers(*names):
    return [{"name": n, "spec": n, "revision": "1", "text": f"{n} 이야기"} for n in names]


def test_a_vote_is_kept_with_everything_that_was_shown():
    run = new_run()
    row = votes.vote(run, "b", answers("arm distilled", "teacher"), "부탁", "local", seed=3, temperature=0.8)
    assert row["winner"] == "teacher" and row["seed"] == 3
    assert run.votes_file.read_text("utf-8").count("\n") == 1
    assert "arm distilled 이야기" in run.votes_file.read_text("utf-8")


def test_votes_are_counted_whichever_side_a_speaker_sat_on():
    run = new_run()
    for choice, shown in [("a", ("arm x", "teacher")), ("b", ("teacher", "arm x")), ("a", ("teacher", "arm x"))]:
        votes.vote(run, choice, answers(*shown), "부탁", "local")
    votes.vote(run, "tie", answers("teacher", "arm x"), "부탁", "local")
    votes.vote(run, "bad", answers("teacher", "arm x"), "부탁", "local")
    (duel,) = votes.count(run)
    assert (duel.first, duel.second) == ("arm x", "teacher")
    assert (duel.wins, duel.losses, duel.ties, duel.bad) == (2, 1, 1, 1)
    assert duel.share == (2 + 0.5) / 4
    assert duel.low < 0.5 < duel.high


def test_of_three_speakers_the_chosen_one_beats_the_others_and_nothing_is_said_of_these():
    run = new_run()
    votes.vote(run, "c", answers("teacher", "base", "arm x"), "부탁", "local")
    found = {(d.first, d.second): (d.wins, d.losses) for d in votes.count(run)}
    assert found == {("arm x", "teacher"): (1, 0), ("arm x", "base"): (1, 0)}


def test_the_interval_is_wilsons():
    # Brown, Cai, DasGupta (2001): 0 of 10 gives 0 to 0.278 at 95 %.
    share, low, high = votes.share(0, 10)
    assert (share, low) == (0, 0) and abs(high - 0.2775) < 0.001
    assert votes.share(5, 5)[1] < 0.6, "five wins do not prove much"
    assert votes.share(0, 0) == (None, None, None)


def test_a_run_without_votes_has_no_duels():
    assert votes.count(new_run()) == []
