"""What a policy file imports (docs/policies.md): `from corten.policy import create, Refused`."""

from corten.policy.words import Container, Refused, create

__all__ = ["Container", "Refused", "create"]
