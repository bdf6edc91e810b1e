"""Active learning: from a molecule to a validated force field.

One campaign is one folder, and one function, :func:`learn`, runs it or resumes it.

Round r of the loop:

1. **train** the members of a committee on all labels so far.  Members differ in their
   initial weights, in the order of their batches and in the frames that they hold back
   for validation.  From round 1 on each continues from its own weights.
2. **explore** with Langevin dynamics of the committee's mean: walkers at the
   temperature T, at 1.5 T and at 2 T, some of which start with a turned rotatable bond.
   The deviation of a frame is the largest over its atoms of the standard deviation of
   the force over the members.  A walker stops where it is far above the threshold, or
   where a bond breaks.
3. **test**: fresh frames, drawn at random from these dynamics, are labeled.  They were
   never trained on, so their errors are those that a simulation meets.  They also tell
   how the deviation relates to the error: later deviations are multiplied by the ratio
   of the two (the calibration).
4. **stop** if the errors of the fresh frames and the share of frames above the
   threshold are within their limits, or if the budget (labels or minutes) is used up.
5. **choose** frames of high deviation that differ from each other and from all labeled
   frames, label them, and go to 1.  The fresh frames join the training data.

Then the committee is written as a model, checked (torsion scans and harmonic
frequencies against the reference, energy conservation, stability), judged, and all of
it shown in ``report.html``.

The folder:

    campaign.json           settings; what the campaign computes depends on nothing else
    input.*                 the molecules as given
    journal.jsonl           one line an event; the state is derived from it
    data/round-NN.h5        labels that round NN trains on for the first time
    data/fresh-NN.h5        labels that tested the committee of round NN
    data/checks-*.h5        labels of the checks
    runs/round-NN/member-K/ training runs
    runs/round-NN/explored.npz   frames seen, with their deviation
    runs/round-NN/path.npz, metadynamics-*.npz, reaction.json   of a reaction
    model/                  the committee
    report.html             the verdict

A campaign with ``bias`` learns a reaction: see
:mod:`~openmm_se3.active_learning.reaction`.

Every step either is in the journal or is repeated, and labels, training runs and files
resume on their own, so that a kill costs one label.  All random numbers come from the
seed and the round.
"""

from __future__ import annotations

from openmm_se3.active_learning.learn import learn

__all__ = ["learn"]
