"""Command lines of `network`, and of `--network`, that docker's CLI and corten answer alike: see same_answers.

The engine has the network `cli-net` with the container `cli-box` on it, and `cli-net9` with none.
"""

from __future__ import annotations

# They only look: both clients ask at once.
SEEN = """
network ls
network list -q
network ls --no-trunc
network ls -f driver=bridge
network ls -f name=cli-net --format '{{.Name}} {{.Driver}} {{.IPv4}} {{.IPv6}} {{.Internal}} {{.Labels}} {{.CreatedAt}}'
network ls -f label=a --format raw
network ls -q --format raw
network ls --format json
network ls --format 'table {{.ID}}\\t{{.Label "a"}}\\t{{.Internal}}'
network ls -f nonsense=x
network inspect cli-net
network inspect --format '{{.Name}} {{.IPAM.Config}} {{.Labels}} {{.Internal}}' cli-net bridge
network inspect -v cli-net9
network inspect nope cli-net9
inspect cli-net9
ps --filter network=cli-net --format '{{.Names}} {{.Networks}}'
"""

# They change something, and each is refused to both, or changes nothing in the end.
CHANGED = """
network create --subnet nonsense x
network create bridge
network create cli-net9
network create --driver nonsense x
network create --driver host x
network create 'bad name'
network create ''
network rm nope cli-net
network rm -f nope
network rm bridge
network prune
network prune -f --filter label=nope
network prune -f --filter nonsense=x
network connect nope cli-box
network connect cli-net9 nope
network connect cli-net cli-box
network connect host cli-box
network connect --ip x cli-net9 cli-box
network connect --alias a --gw-priority -1 cli-net9 cli-done
network disconnect -f cli-net9 cli-done
network disconnect nope cli-box
network disconnect cli-net9 cli-box
network disconnect -f cli-net9 nope
"""

# What the client alone refuses.
WRONG = """
network nonsense
network ls --format '{{.Nope}}'
network ls -f nonsense
network ls x
network inspect
network inspect ''
network create
network create a b
network create --ipv6=maybe x
network create --label =x x
network create --gateway 10.1.0.1 x
network create --subnet 10.1.0.0/16 --aux-address a=10.2.0.1 x
network rm
network rm ''
network prune x
network connect
network connect cli-net9 ''
network connect '' cli-box
network connect --driver-opt x cli-net9 cli-box
network connect --gw-priority x cli-net9 cli-box
network connect --link a:b:c cli-net9 cli-box
network disconnect
"""

# Containers, which neither leaves behind.
RUN = """
run --rm --network cli-net --network-alias a {image} true
run --rm --network cli-net --network cli-net9 {image} cat /sys/class/net/eth1/address
run --rm --network name=cli-net,alias=a --network-alias b {image} true
run --rm --network name=cli-net,nope=1 {image} true
run --rm --network cli-net --network cli-net {image} true
run --rm --network cli-net --network host {image} true
run --rm --network name=cli-net9,ip=10.99.9.9 {image} ip -o -4 addr show eth0
run --rm --network cli-net9 --ip 10.99.10.1 {image} true
run --rm --network cli-net9 --ip x {image} true
run --rm --net cli-net --net-alias a {image} true
run --rm --network bridge --ip 172.17.0.99 {image} true
"""
