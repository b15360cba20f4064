"""Lyra: pictures and videos to explicit scenes of 3D Gaussians, rendered in real time."""

__version__ = "0.1.0"
