"""The distribution protocol: what Corten says to registries, and what it believes of their answers."""
