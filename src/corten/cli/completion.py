"""`completion SHELL`, the script that a shell reads, and `__complete`, which that script calls."""

from __future__ import annotations

import json
from collections.abc import Sequence

import click

from corten import errors
from corten.cli.command import Command, Failure, operands
from corten.cli.complete import complete
from corten.cli.session import Session
from corten.cli.transport import Client

# The last line says whether paths may stand there as well, as in Docker's protocol: 0 they may, 4 they may not.
FILES, NO_FILES = ":0", ":4"

BASH = r"""# bash completion of corten: source it, or keep it as /usr/share/bash-completion/completions/corten
_corten() {
    local line="${COMP_LINE:0:COMP_POINT}" words answer current done
    read -ra words <<< "$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    current="${words[${#words[@]} - 1]}"
    mapfile -t answer < <("${words[0]}" __complete "${words[@]:1}" 2>/dev/null)
    # bash has split the word at : and =, and wants what follows alone
    done="${current%"${current##*[:=]}"}"
    local last="${answer[${#answer[@]} - 1]}" one
    COMPREPLY=()
    for one in "${answer[@]}"; do
        [[ $one == :* ]] && continue
        one="${one%%$'\t'*}"
        COMPREPLY+=("${one#"$done"}")
    done
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *: ]] && compopt -o nospace
    [[ $last == :0 ]] && compopt -o default
    return 0
}
complete -F _corten corten
"""

ZSH = r"""#compdef corten
# zsh completion of corten: keep it as _corten in a folder of $fpath, or source it after compinit
_corten() {
    local -a answer names
    local line last
    answer=("${(@f)$("${words[1]}" __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    last="${answer[-1]}"
    for line in "${(@)answer[1,-2]}"; do
        names+=("${${line%%$'\t'*}//:/\\:}${${(M)line:#*$'\t'*}:+:${line#*$'\t'}}")
    done
    (( ${#names} )) && _describe -t candidates candidate names
    [[ $last == :0 ]] && _files
    return 0
}
(( ${+functions[compdef]} )) && compdef _corten corten
"""

FISH = r"""# fish completion of corten: keep it as ~/.config/fish/completions/corten.fish
function __corten_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l answer ($words[1] __complete $words[2..-1] "$current" 2>/dev/null)
    for line in $answer[1..-2]
        printf '%s\n' $line
    end
    if test "$answer[-1]" = :0
        __fish_complete_path "$current"
    end
end
complete -c corten -f -a '(__corten_complete)'
"""

SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


@click.command(
    "completion",
    cls=Command,
    hidden=True,
    operands="bash|zsh|fish",
    at_least=1,
    at_most=1,
    help="Generate the autocompletion script for the specified shell",
)
@operands()
def completion(operands: tuple[str, ...]) -> None:
    """Prints the script."""
    script = SCRIPTS.get(operands[0])
    if script is None:
        raise Failure(f"corten: no completion for the shell {operands[0]!r}: bash, zsh and fish have one")
    print(script, end="")


class _Raw(click.Command):
    """Its words are a command line that is not finished: none is a flag of its own."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.params = {"words": tuple(args)}
        ctx.args = []
        return []


def _candidates(words: Sequence[str]) -> None:
    from corten.cli.main import root

    group = root()
    choice = complete(group, words, lambda kind: _names(group, words, kind))
    for one in choice.candidates:
        print(f"{one.text}\t{one.help}" if one.help else one.text)
    print(FILES if choice.is_file else NO_FILES)


completing = _Raw("__complete", callback=_candidates, hidden=True)


def _names(group: click.Group, words: Sequence[str], kind: str) -> list[str]:
    """What the engine of this command line has; nothing when it does not answer."""
    try:
        client = _client(group, words)
        if kind == "any":
            return [name for one in ("container", "image", "network", "volume") for name in _of(client, one)]
        return _of(client, kind)
    except (errors.CortenError, click.ClickException, Failure, OSError, ValueError):
        return []


def _client(group: click.Group, words: Sequence[str]) -> Client:
    """By the flags in front of the verb; it starts no engine."""
    from corten.cli.main import session_of

    context = group.make_context("corten", list(words[:-1]), resilient_parsing=True)
    session: Session = session_of(context.params)
    return session.plain_client


def _of(client: Client, kind: str) -> list[str]:
    if kind == "image":
        return [
            tag
            for one in client.json("GET", "/images/json")
            for tag in one.get("RepoTags") or ()
            if "<none>" not in tag
        ]
    if kind == "volume":
        return [one["Name"] for one in client.json("GET", "/volumes")["Volumes"] or ()]
    if kind == "network":
        return [one["Name"] for one in client.json("GET", "/networks")]
    query = {"filters": json.dumps({"status": ["running", "paused"]})} if kind == "running" else {"all": True}
    return [
        name.removeprefix("/") for one in client.json("GET", "/containers/json", query=query) for name in one["Names"]
    ]
