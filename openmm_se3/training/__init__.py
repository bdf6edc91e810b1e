"""Training: labeled frames in, a checkpoint and its error table out.

Lightning and DGL come with the ``train`` extra and stay in this package; the network
sees plain tensors only.
"""
