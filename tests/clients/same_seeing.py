"""Command lines about what containers do, which docker's CLI and corten's answer alike (see same_answers).

`{window}` is a time in which there was an event of every type.
"""

from __future__ import annotations

STATS = """
stats nope
stats --no-stream nope nope2 cli-box
stats --no-stream cli-tty cli-new cli-done
stats --no-stream -a cli-tty
stats --no-stream
stats --no-stream -a --no-trunc
stats --no-stream --format '{{.Container}} {{.Name}} {{.ID}} {{.PIDs}} {{.BlockIO}}' cli-tty cli-paused cli-new
stats --no-stream --format 'table {{.Container}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.CPUPerc}}\t{{.NetIO}}' cli-done
stats --no-stream --format '{{.Nope}}' cli-tty
stats --no-stream --format '{{.Foo' cli-tty
stats --nonsense
container stats --no-stream cli-new
"""

EVENTS = """
events {window}
events {window} --format json
events {window} --format '{{json .}}'
events {window} --format '{{.Type}} {{.Action}} {{.Actor.ID}} {{.Actor.Attributes.image}}'
events {window} --format '{{.Status}} {{.From}} {{.ID}} {{.Time}} {{.TimeNano}} {{.Scope}}'
events {window} --format '{{.Actor}} {{.Actor.Attributes}}'
events {window} --format '{{.Nonsense}}'
events {window} --format '{{.Foo'
events {window} --filter type=container
events {window} --filter type=network
events {window} --filter type=image
events {window} --filter type=daemon
events {window} --filter type=nonsense
events {window} --filter container=cli-box
events {window} --filter image={image}
events {window} --filter event=create --filter event=die
events {window} --filter label=corten.test=cli
events {window} --filter nonsense=1
events {window} --filter novalue
events --since nonsense
events --until nonsense
events x
"""
