"""A reaction: what a campaign with ``bias`` does beyond one without.

variables      collective variables, from text or from a Python file
given          the minima, and structures between them
metadynamics   biased dynamics of the committee's mean, with OpenMM's Metadynamics
path           the minimum-energy path between two minima
free_energy    two independent metadynamics runs along the first variable
compare        the path against the reference; what the verdict has to know
page           the section of the report
"""
