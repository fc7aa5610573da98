"""Corten: a container engine, from the Docker API down to the kernel."""

__version__ = "0.1.0"
