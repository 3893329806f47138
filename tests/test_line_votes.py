"""Lines that come back."""

import numpy as np
from numpy.testing import assert_allclose
from trails import light, noise, planes

from gpucoadd import line_votes
from gpucoadd.line_images import NoiseFactor, noise_factor, streak_images
from gpucoadd.line_votes import Votes, vote
from gpucoadd.lines import Line

SHAPE = (160, 200)
LINE = Line(False, -0.5, 199.5, 40.0, 110.0)
WHITE = NoiseFactor(np.ones(96))


def is_persistent(z, votes, *, persistence, slope=0.5):
    return line_votes.is_persistent(z, np.full(len(z), slope), votes, persistence=persistence)


def one(z, weight=1.0):
    return Votes(np.atleast_1d(np.asarray(z, float)), np.broadcast_to(np.asarray(weight, float), np.shape([z])))


def epoch(crest, moved=0.0, bad=None, xp=np, seed=5):
    trail = light(SHAPE, *LINE.moved(moved, moved).ends(), crest=crest, width=2.0)
    return streak_images(*planes(noise(SHAPE, seed) + trail, bad=bad, xp=xp), mesh=0)


def test_significance_of_a_known_line(xp):
    ideal = np.sqrt((light(SHAPE, *LINE.ends(), crest=1.0, width=2.0).astype(float) ** 2).sum())
    votes = vote([(LINE, 1, 2.0), (LINE, -1, 2.0)], epoch(1.0, xp=xp), WHITE)
    # Unit noise, of which the largest of some shifts and widths is taken; the clip costs a little.
    assert_allclose(votes.z[0], ideal, atol=4)
    assert votes.z[1] < 3
    assert_allclose(votes.weight, 1)
    halved = vote([(LINE, 1, 2.0)], epoch(1.0, xp=xp), NoiseFactor(np.full(96, 4.0))).z
    assert_allclose(halved, votes.z[:1] / 2, rtol=0.05)


def test_lines_may_move_by_two_pixels():
    near, far = (vote([(LINE, 1, 1.0)], epoch(1.0, moved), WHITE).z[0] for moved in (2.0, 8.0))
    assert near > 0.9 * vote([(LINE, 1, 1.0)], epoch(1.0), WHITE).z[0] and far < 4


def test_weight_is_the_share_of_pixels_that_are_there():
    bad = np.zeros(SHAPE, bool)
    bad[:, 60:] = True
    images = epoch(1.0, bad=bad)
    assert_allclose(vote([(LINE, 1, 2.0)], images, noise_factor(images)).weight, 0.3, atol=0.01)
    nothing = vote([(LINE, 1, 2.0)], epoch(1.0, bad=np.ones(SHAPE, bool)), WHITE)
    assert nothing.z[0] == 0 and nothing.weight[0] == 0


def test_rule():
    z = np.array([20.0])
    seen, unseen = one(8.1), one(4.0)  # above 0.4 of 20, and not above 0.2 of it
    assert not is_persistent(z, [one(8.0), *4 * [unseen]], persistence=1)
    assert not is_persistent(z, [], persistence=2)
    assert not is_persistent(z, [seen] + 4 * [unseen], persistence=2)
    assert is_persistent(z, 2 * [seen] + 3 * [unseen], persistence=2)
    assert is_persistent(z, 3 * [seen] + 3 * [unseen], persistence=3)
    assert not is_persistent(z, 2 * [seen] + 3 * [unseen], persistence=3)
    # One of at most three other epochs is enough.
    assert is_persistent(z, [seen] + 2 * [unseen], persistence=2)
    # No epoch is asked that has less than half of the line.
    assert not is_persistent(z, [one(9, 0.49), *4 * [unseen], seen], persistence=2)
    assert is_persistent(z, [one(9, 0.5), *4 * [unseen], seen], persistence=2)
    assert is_persistent(z, [seen, *4 * [one(0, 0.4)]], persistence=2)


def test_faint_lines_need_some_significance():
    z = np.array([6.0, 6.0])
    votes = 2 * [Votes(np.array([3.5, 3.51]), np.ones(2))] + 2 * [Votes(np.zeros(2), np.ones(2))]
    assert is_persistent(z, votes, persistence=2).tolist() == [False, True]


def test_faint_lines_in_a_third_of_the_epochs_are_enough():
    z = np.array([10.0])
    faint, unseen = one(2.6), one(2.5)
    assert is_persistent(z, 3 * [faint] + 6 * [unseen], persistence=2)
    assert not is_persistent(z, 3 * [faint] + 7 * [unseen], persistence=2)
    assert not is_persistent(z, 2 * [faint] + 2 * [unseen], persistence=2)  # three at least
    assert is_persistent(z, 3 * [faint] + 6 * [unseen] + 9 * [one(0.0, 0.4)], persistence=2)
    # Beside a bright line, others have to be a fifth as significant.
    assert not is_persistent(np.array([13.1]), 9 * [faint], persistence=2)


def test_near_rows_and_columns_one_other_epoch_is_enough():
    votes = [one(4.1), *5 * [one(0.0)]]
    for slope in (0.0, 0.0349, -0.0349):
        assert is_persistent(np.array([10.0]), votes, persistence=2, slope=slope)
    for slope in (0.035, -0.035):
        assert not is_persistent(np.array([10.0]), votes, persistence=2, slope=slope)
    assert not is_persistent(np.array([10.0]), [one(3.9), *5 * [one(0.0)]], persistence=2, slope=0.0)


def test_an_epoch_without_noise_is_not_asked():
    votes = vote([(LINE, 1, 2.0)], epoch(1.0), NoiseFactor(np.full(96, np.nan)))
    assert votes.z[0] == 0 and votes.weight[0] == 0


def test_what_crosses_the_line_does_not_count():
    crossing = light(SHAPE, (0, 60), (159, 90), crest=4.0, width=2.0)
    seen = streak_images(*planes(noise(SHAPE, 5) + crossing), mesh=0)
    assert vote([(LINE, 1, 2.0)], seen, WHITE).z[0] < 3
    # Noise does not suffer from what is left out: votes of faint lines are as high as their significance.
    trail = light(SHAPE, *LINE.ends(), crest=0.15, width=2.0)
    ideal = np.sqrt((trail.astype(float) ** 2).sum())
    votes = [
        vote([(LINE, 1, 2.0)], streak_images(*planes(noise(SHAPE, 90 + k) + trail), mesh=0), WHITE) for k in range(12)
    ]
    # The largest of some shifts and widths is taken.
    assert ideal - 0.5 < np.mean([each.z[0] for each in votes]) < ideal + 1.5
