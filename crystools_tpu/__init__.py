"""The instrument panel for generative video and images on TPUs."""

__version__ = "0.1.0"
