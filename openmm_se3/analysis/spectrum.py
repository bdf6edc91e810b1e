"""Vibrational spectrum from the velocity autocorrelation.

    C(t) = sum_i m_i <v_i(0) . v_i(t)>,    S(w) = integral C(t) cos(w t) dt

Two things are taken out that would blur or shift the lines:

- Each molecule turns.  In a free molecule that splits every vibration by the frequency
  of the rotation, so velocities are taken in the Eckart frame of the molecule, without
  its translation and rotation.
- Verlet dynamics run too fast: a mode of frequency w shows at w_MD with
  w = (2 / dt) sin(w_MD dt / 2), exactly so for a harmonic one.  At 0.5 fs that is
  23 cm^-1 for an O-H stretch.  The wavenumbers given are corrected.

Lines are those of classical dynamics at the temperature of the run: anharmonic, so a
little below the harmonic ones, and without quantum effects.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from openmm_se3.units import SPEED_OF_LIGHT_CM_PER_FS

# cm^-1; frames too far apart to show it would put it at a wrong place (aliasing).
HIGHEST_VIBRATION = 4200.0
MAX_LAG_FS = 10_000.0  # of the autocorrelation; sets the resolution, 3.3 cm^-1
MIN_FRAMES = 200
PADDING = 4  # finer grid, for the position of the peaks
PEAK_RANGE = (150.0, 6000.0)  # cm^-1, where peaks are looked for
PEAK_PROMINENCE = 0.03  # of the highest peak
PEAK_SPACING = 25.0  # cm^-1
MAX_PEAKS = 6


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """A spectrum.

    Attributes:
        wavenumber: Corrected wavenumbers, cm^-1.
        as_simulated: The same without the correction for the time step, cm^-1.
        intensity: Intensities, the highest 1.
        peaks: Corrected wavenumbers of the peaks, cm^-1, in rising order.
        resolution: Width of a sharp line, cm^-1.
    """

    wavenumber: np.ndarray
    as_simulated: np.ndarray
    intensity: np.ndarray
    peaks: np.ndarray
    resolution: float


def verlet_corrected(wavenumber: np.ndarray, dt_fs: float) -> np.ndarray:
    """Return true wavenumbers (cm^-1) from those seen in Verlet dynamics."""
    to_angular = 2.0 * np.pi * SPEED_OF_LIGHT_CM_PER_FS  # cm^-1 -> rad/fs
    seen = np.asarray(wavenumber) * to_angular
    return 2.0 / dt_fs * np.sin(seen * dt_fs / 2.0) / to_angular


def nyquist(interval_fs: float) -> float:
    """Return the highest wavenumber (cm^-1) that frames so far apart resolve."""
    return 0.5 / (interval_fs * SPEED_OF_LIGHT_CM_PER_FS)


def spectrum(
    velocities: np.ndarray, masses: np.ndarray, interval_fs: float, dt_fs: float
) -> Spectrum | None:
    """Return the spectrum of velocities, or None if there are too few.

    Args:
        velocities: Velocities [n_frames, n_atoms, 3], A/fs.
        masses: Masses [n_atoms], dalton.
        interval_fs: Time between frames, fs.
        dt_fs: Time step of the dynamics, fs.

    Raises:
        ValueError: The frames are too far apart to resolve every vibration, so that
            fast ones would appear as slow ones.
    """
    highest = nyquist(interval_fs)
    if highest < HIGHEST_VIBRATION:
        raise ValueError(
            f"frames {interval_fs:g} fs apart resolve vibrations up to {highest:.0f} "
            f"cm^-1 only, and there are some up to {HIGHEST_VIBRATION:.0f}, which "
            "would appear at lower wavenumbers"
        )
    n_frames = len(velocities)
    if n_frames < MIN_FRAMES or not np.isfinite(velocities).all():
        return None
    lags = min(n_frames // 2, round(MAX_LAG_FS / interval_fs))
    size = 1 << (2 * n_frames - 1).bit_length()  # zeros keep the ends apart
    power = np.zeros(size // 2 + 1)
    for atom, mass in enumerate(masses):
        for axis in range(3):
            transformed = np.fft.rfft(velocities[:, atom, axis], size)
            power += mass * (transformed.real**2 + transformed.imag**2)
    correlation = np.fft.irfft(power)[:lags] / n_frames
    correlation *= 0.5 * (1.0 + np.cos(np.pi * np.arange(lags) / lags))  # Hann
    length = PADDING * (1 << (2 * lags - 1).bit_length())
    intensity = 2.0 * np.fft.rfft(correlation, length).real - correlation[0]
    intensity = intensity.clip(min=0.0) / max(float(intensity.max()), 1e-300)
    seen = np.fft.rfftfreq(length, interval_fs) / SPEED_OF_LIGHT_CM_PER_FS
    corrected = verlet_corrected(seen, dt_fs)
    return Spectrum(
        wavenumber=corrected,
        as_simulated=seen,
        intensity=intensity,
        peaks=find_peaks(corrected, intensity),
        resolution=1.0 / (lags * interval_fs * SPEED_OF_LIGHT_CM_PER_FS),
    )


def find_peaks(wavenumber: np.ndarray, intensity: np.ndarray) -> np.ndarray:
    """Return the wavenumbers of the highest peaks, in rising order."""
    from scipy.signal import find_peaks as scipy_peaks

    inside = (wavenumber > PEAK_RANGE[0]) & (wavenumber < PEAK_RANGE[1])
    x, y = wavenumber[inside], intensity[inside]
    if len(x) < 3:
        return np.empty(0)
    spacing = max(1, round(PEAK_SPACING / (x[1] - x[0])))
    found, _ = scipy_peaks(y, prominence=PEAK_PROMINENCE * y.max(), distance=spacing)
    highest = found[np.argsort(y[found])[::-1][:MAX_PEAKS]]
    # The top of the parabola through a peak and its neighbors.
    left, top, right = y[highest - 1], y[highest], y[highest + 1]
    shift = 0.5 * (left - right) / (left - 2.0 * top + right)
    return np.sort(x[highest] + shift * (x[1] - x[0]))


def internal_velocities(
    positions: np.ndarray,
    velocities: np.ndarray,
    masses: np.ndarray,
    reference: np.ndarray,
) -> np.ndarray:
    """Return the velocities of one molecule in its Eckart frame.

    Translation and rotation are taken off; what is left is turned into the orientation
    of the reference by the mass-weighted superposition, which fulfils Eckart's
    conditions.

    Args:
        positions: Positions [n_frames, n_atoms, 3], A, at the times of the velocities.
        velocities: Velocities [n_frames, n_atoms, 3], A/fs.
        masses: Masses [n_atoms], dalton.
        reference: Reference structure [n_atoms, 3], A.
    """
    m = masses / masses.sum()
    x = positions - np.einsum("a,fax->fx", m, positions)[:, None]
    v = velocities - np.einsum("a,fax->fx", m, velocities)[:, None]
    ref = reference - m @ reference
    angular = np.einsum("a,fax->fx", m, np.cross(x, v))
    square = np.einsum("a,fax,fax->f", m, x, x)
    inertia = square[:, None, None] * np.eye(3) - np.einsum("a,fax,fay->fxy", m, x, x)
    # The pseudo-inverse serves linear molecules, which do not turn about their axis.
    turning = np.einsum("fxy,fy->fx", np.linalg.pinv(inertia, hermitian=True), angular)
    v = v - np.cross(turning[:, None], x)
    u, _, wt = np.linalg.svd(np.einsum("a,fax,ay->fxy", m, x, ref))
    u[..., -1] *= np.linalg.det(u @ wt)[:, None]
    return np.asarray(v @ (u @ wt))
