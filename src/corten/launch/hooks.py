"""Hooks that run in the container's namespaces, as ops (config.md, "POSIX-platform Hooks").

Their stdin is the container's state with the pid as the process itself sees it, their environment without a word on it
that of the container's process, as runc gives them.
"""

from __future__ import annotations

from _json import encode_basestring_ascii as quote

from corten.launch.execops import Hook
from corten.launch.tail import environment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corten.launch.context import InitContext
    from corten.spec import runtime

# the status that the state has while hooks of a kind run
STATUS = {"createContainer": "creating", "startContainer": "created"}


def hook_ops(config: runtime.Config, context: InitContext, kind: str, hooks: tuple[runtime.Hook, ...]) -> list[Hook]:
    """One op for each hook, in order."""
    if not hooks:
        return []
    head = (
        f'{{"ociVersion":{quote(config.oci_version)},"id":{quote(context.id)},"status":"{STATUS[kind]}","pid":'
    ).encode()
    annotations = ",".join(f"{quote(name)}:{quote(value)}" for name, value in config.annotations.items())
    tail = f',"bundle":{quote(context.bundle)},"annotations":{{{annotations}}}}}'.encode()
    own = environment(config.process) if config.process is not None else {}
    return [
        Hook(
            kind,
            hook.path,
            hook.args or (hook.path,),
            tuple(f"{name}={value}" for name, value in own.items()) if hook.env is None else hook.env,
            head,
            tail,
            hook.timeout_s,
            number,
            home=int(hook.env is None),
        )
        for number, hook in enumerate(hooks)
    ]
