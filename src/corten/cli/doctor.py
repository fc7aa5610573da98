"""`doctor`: what `cortend --doctor` of this machine finds; the engine need not run."""

from __future__ import annotations

import os
import sys

import click

from corten.cli.command import Command, Failure, operands


@click.command(
    "doctor",
    cls=Command,
    operands="[OPTIONS]",
    at_most=0,
    help="Compare the engine's records with disk and kernel, and say what no record names",
)
@click.option("--fix", is_flag=True, help="Remove it; the engine must not run")
@click.option("--config-file", default="", help="Configuration file of the engine")
@click.option("--data-root", default="", help="Data root of the engine")
@click.option("--exec-root", default="", help="Exec root of the engine")
@operands()
def doctor(operands: tuple[str, ...], fix: bool, **given: str) -> None:
    """Becomes cortend; exits with 1 when something is wrong."""
    program = os.path.join(os.path.dirname(os.path.abspath(sys.argv[0])), "cortend")
    argv = [program, "--doctor", *(["--fix"] if fix else [])]
    for name, value in given.items():
        argv += [f"--{name.replace('_', '-')}", value] if value else []
    try:
        os.execv(program, argv)
    except OSError as error:
        raise Failure(f"corten: {program}: {(error.strerror or str(error)).lower()}") from error
