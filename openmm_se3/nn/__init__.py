"""The network: an SE(3)-Transformer in plain PyTorch tensors.

One group of equations a file, numbered as in Hedelius, "Learning inter-atomic forces
with an SE(3)-Transformer" (2021), after Fuchs et al., https://arxiv.org/abs/2006.10503:

    radial       psi(|x|), envelope                 (2.2)
    kernel       W_J^{lk}, W^{lk}                   (2.1) (2.2)
    attention    q_i, k_ij, alpha_ij, the layer     (2.3) (2.4) (2.5) (2.8)
    layers       self-interaction, nonlinearity     (2.6) (2.7) (2.9)
    activation   SiLU or ReLU
    zbl          repulsion of nuclei (ZBL)
    transformer  the whole network
    force_field  energy and forces from positions
"""
