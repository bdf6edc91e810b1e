"""Examines an installation: what is there, what is wrong, and what mends it.

Evidence is gathered in processes of their own (:mod:`~openmm_se3.doctor.collect`,
:mod:`~openmm_se3.doctor.probe`), judged (:mod:`~openmm_se3.doctor.diagnosis`) and shown
(:mod:`~openmm_se3.doctor.report`).
"""
