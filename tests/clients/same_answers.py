"""Command lines that docker's CLI and corten's answer alike against the same engine, and those that differ on purpose.

`cli-box` runs and has a published port, `cli-done` has ended with 3, `cli-tty` has a terminal, `cli-new` was never
started, `cli-paused` is paused; `{folder}` has the files of `test_corten_same`, `{image}` is the image.
"""

from __future__ import annotations

LISTS = """
ps
ps -a
ps -s
ps -as
ps -n 1
ps --last 2
ps -q
ps -aq --no-trunc
ps --no-trunc
ps -a --format json
ps -a --format '{{json .}}'
ps -a --format '{{.Nonsense}}'
ps -a --format '{{.ID'
ps -a --format 'table {{.Names}}\\t{{.Size}}\\t{{.LocalVolumes}}\\t{{.CreatedAt}}'
ps -a --format '{{upper .Names}} {{.Label "corten.test"}}'
ps -a --format 'table {{.Label "b"}}\\t{{.Names}}'
ps -a --format raw
ps --format '{{.Names}} {{.Platform}}'
ps extra
ps --nonsense
ps -Z
ps -n x
ps --filter novalue
ps -f ''
ps -a --filter status=exited --filter name=cli- --format '{{.Names}}'
images
images -a
images --digests
images --no-trunc
images -q
images --format raw
images --format '{{.Nonsense}}'
images --format 'table {{.ID}}\\t{{.CreatedAt}}\\t{{.SharedSize}}'
images --format 'table {{.UniqueSize}}\\t{{.VirtualSize}}'
images --filter dangling=true
images --filter dangling=nonsense
images --filter nonsense=1
images --tree -q
images --tree --no-trunc
images --tree --digests
images --tree --format x
system df
system df --format json
system df --format '{{.Type}}: {{.TotalCount}} {{.Active}} {{.Size}} {{.Reclaimable}}'
system df --format 'table {{.Type}}\\t{{.Reclaimable}}'
system df -v --format '{{range .Images}}{{.ID}} {{.Digest}}{{end}}{{range .Containers}}{{.ID}} {{.Names}} {{end}}'
system df -v --format '{{json .Volumes}} {{json .Images}}'
system df x
image inspect {image} --platform linux/amd64 -f '{{.Id}}'
image inspect {image} --platform linux/arm64
image inspect {image} -f '{{json .Descriptor}} {{.Manifests}}'
history {image}
history -q {image}
history --no-trunc {image}
history --human=false {image}
history --format json {image}
history --format '{{.Nonsense}}' {image}
history --platform linux/amd64 {image}
history --platform nonsense/x/y/z {image}
info --format '{{.ServerVersion}} {{.Driver}} {{.Containers}}'
info --format '{{.ClientInfo.Debug}}'
info -f '{{.Nonsense}}'
info -f '{{.Foo'
info x
version -f '{{.Server.Version}} {{.Server.Os}}/{{.Server.Arch}} {{.Server.KernelVersion}} {{.Server.APIVersion}}'
version -f '{{json .Server.Components}}'
version -f '{{.Nonsense}}'
version -f '{{.Foo'
version x
"""

CONTAINERS = """
top cli-box
top cli-box -o pid,comm
top cli-box aux
top cli-box -o nonsense
top cli-done
top
logs -f cli-done
logs --tail 1 cli-done
logs -n 1 -t cli-done
logs --tail x cli-done
logs --since 1h cli-done
logs --until 1h cli-done
logs --since nonsense cli-done
logs --until nonsense cli-done
logs --details cli-done
logs --since 2130-01-01 cli-done
logs --until 2020-01-01T00:00:00Z cli-done
logs
logs a b
inspect cli-box cli-done {image}
inspect -s cli-box
inspect --size -f '{{.SizeRw}} {{.SizeRootFs}}' cli-box
inspect --type image cli-box
inspect --type image {image}
inspect --type image --size {image}
inspect -s bridge
inspect -s {image} no-such
inspect --type '' cli-box
inspect ''
inspect --type image ''
inspect --type network bridge
inspect --type network no-such
inspect --type volume x
inspect --type plugin x
inspect --type nonsense cli-box
inspect bridge
inspect -f '{{.Name}} {{.Driver}} {{.IPAM.Config}}' bridge
inspect -f '{{.Nonsense}}' cli-box
inspect -f '{{.State.Nonsense}}' cli-box
inspect -f '{{.Name.Nonsense}}' cli-box
inspect -f json cli-box
inspect -f '{{.HostConfig.Memory' cli-box
inspect -f '{{nofunc .}}' cli-box
inspect -f '{{.Config}}' cli-box
inspect -f '{{.Created}} {{.State}}' cli-box
inspect -f '{{.State.Health}} {{.Config.Healthcheck}} {{json .State.Health}}' cli-box
inspect -f '{{.State.Health.Status}}' cli-box
inspect -f '{{.HostConfig.Binds}} {{json .HostConfig.Binds}} {{.Config.Volumes}} {{.HostConfig.PidsLimit}}' cli-box
inspect -f '{{.Config.Labels.nope}} {{index .Config.Labels "nope"}}|{{.NetworkSettings.Networks.nope}}' cli-box
inspect -f '{{.NetworkSettings.Ports}}' cli-box
inspect -f '{{range $p, $c := .NetworkSettings.Ports}}{{$p}} {{(index $c 0).HostPort}}{{end}}' cli-box
inspect -f '{{.RepoDigests}} {{.Config.Cmd}} {{.Config.Entrypoint}} {{.Parent}}|{{.GraphDriver.Name}}' {image}
inspect cli-box nope cli-done
inspect
container inspect cli-box nope
image inspect nope
image inspect -f '{{.Id}}' {image} nope
wait cli-done cli-done
wait cli-done nope
rename cli-done
rename nope x
help nope
help container nope
help run x y
rename cli-done 'bad name'
rename cli-done ''
rename ' ' x
stop -s FOO cli-box
restart -s FOO cli-box
rename cli-done cli-done
port cli-box 80/tcp
port cli-box 80/udp
port cli-box x
port cli-done
port nope
attach cli-done
attach nope
attach cli-paused
attach
update cli-box
update -m 64m --memory-swap -1 cli-box nope
update --restart on-failure:x cli-box
update --cpus x cli-box
update -m x cli-box
update
pause cli-paused
pause cli-done
pause nope
unpause cli-box
stop cli-done
stop -t x cli-box
stop -s NONSENSE cli-box
stop --time 1 nope
kill -s NONSENSE cli-box
kill nope
kill -s 99 cli-box
kill -s 0 cli-box
restart nope
rm -f nope
rm cli-paused
start nope cli-box
start -a nope
start -a cli-box nope
exec
exec cli-box
exec -it cli-box sh
exec cli-paused true
exec -u nouser cli-box true
exec -w /nowhere cli-box true
exec -d cli-box true
exec --env-file /nope cli-box true
exec --privileged cli-box true
exec -e =x cli-box true
exec -t cli-box echo hi
exec -Z cli-box true
nonsense
container nonsense
image nonsense
container prune --filter nonsense=1 -f
image prune --filter nonsense=1 -f
image prune --filter novalue -f
image prune -f
container prune
image prune
image prune -a
image prune x
system prune
system prune -a --volumes
system prune --filter label=x --filter until=24h
system prune --volumes --filter until=24h -f
system prune --filter nonsense=1 -f
rmi -f nope
rmi nope nope2
rmi
tag a
tag {image} x:bad:y
save
save nope
save {image} nope:1
save UPPER/x
save -o /nope/x {image}
save -o /dev/null {image}
save -o /tmp {image}
save --platform nonsense {image}
save --platform linux/s390x {image}
save {image}
export
export nope
export -o /nope/x cli-done
export -o /dev/null cli-done
export cli-done
export cli-done cli-box
diff
diff nope
diff cli-done
diff cli-box
diff cli-done cli-box
commit
commit nope
commit cli-done UPPER
commit cli-done a:bad:b
commit cli-done a@sha256:0000000000000000000000000000000000000000000000000000000000000000
commit -c 'RUN x' cli-done
commit -c 'ENV' cli-done
commit cli-done a b
load -i /nope
load -i /etc/passwd
load --platform nonsense -i /etc/passwd
load x
import /nope
import
import /etc/passwd
import /etc/passwd Bad/Name
import -c 'NONSENSE x' /dev/null x:y
--nonsense ps
-Z ps
"""

CREATION = """
run
create
run --rm --env-file /nope {image} true
run --rm --env-file {folder}/spaces {image} true
run --rm --env-file {folder}/noname {image} true
run --rm --env-file {folder}/bytes {image} true
run --rm --env-file /tmp {image} true
run --rm --label-file /nope {image} true
run --rm --label-file {folder}/spaces {image} true
run --rm -e =x {image} true
run --rm -l 'a b=c' {image} true
run --rm -m nonsense {image} true
run --rm -m -5 {image} true
run --rm -m 1k {image} true
run --rm --memory-swap nonsense {image} true
run --rm -m 64m --memory-swap 32m {image} true
run --rm --memory-swap 64m {image} true
run --rm --shm-size x {image} true
run --rm --cpus x {image} true
run --rm --cpus -1 {image} true
run --rm --cpus 0.0000000001 {image} true
run --rm --cpu-shares x {image} true
run --rm --pids-limit x {image} true
run --rm --pids-limit -2 {image} true
run --rm --cpuset-cpus 99 {image} true
run --rm --cpuset-cpus x {image} true
run --rm --ulimit x {image} true
run --rm --ulimit nofile=2:1 {image} true
run --rm --ulimit nonsense=1 {image} true
run --rm --ulimit nofile=a {image} true
run --rm --ulimit nofile=1:2:3 {image} true
run --rm --sysctl x {image} true
run --rm --sysctl kernel.nonsense=1 {image} true
run --rm --device /nope {image} true
run --rm --device /dev/null:/x:q {image} true
run --rm --device a:b:c:d {image} true
run --rm --device-cgroup-rule x {image} true
run --rm -p x {image} true
run --rm -p 80:x {image} true
run --rm -p 70000:80 {image} true
run --rm -p 80:70000 {image} true
run --rm -p 80:80/xyz {image} true
run --rm -p 80-82:80 {image} true
run --rm -p 80-82:80-81 {image} true
run --rm -p 1.2.3:80:80 {image} true
run --rm -p : {image} true
run --rm -p '' {image} true
run --rm -p published=80,target=x {image} true
run --rm --expose x {image} true
run --rm --expose 80/xyz {image} true
run --rm --expose 90-80 {image} true
run --rm -v /nope:relative {image} true
run --rm -v /a:/b:/c:/d {image} true
run --rm -v /:/ {image} true
run --rm -v '' {image} true
run --rm -v vol:/data {image} true
run --rm -v /tmp:/x:ro,rw {image} true
run --rm -v /tmp:/x:nonsense {image} true
run --rm -v /tmp:/x -v /etc:/x {image} true
run --rm --mount x {image} true
run --rm --mount type=bind,src=/nope,dst=/x {image} true
run --rm --mount type=bind,src=rel,dst=/x {image} true
run --rm --mount type=bind,dst=/x {image} true
run --rm --mount type=bind,src=/tmp {image} true
run --rm --mount type=nonsense,dst=/x {image} true
run --rm --mount type=tmpfs,dst=/x,tmpfs-size=x {image} true
run --rm --mount type=tmpfs,dst=/x,tmpfs-mode=9 {image} true
run --rm --mount type=tmpfs,src=/x,dst=/x {image} true
run --rm --mount type=bind,src=/tmp,dst=/x,tmpfs-size=1m {image} true
run --rm --mount type=bind,src=/tmp,dst=/x,readonly=maybe {image} true
run --rm --mount type=bind,src=/tmp,dst=/x,bind-propagation=x {image} true
run --rm --mount type=bind,src=/tmp,dst=/x,bind-recursive=x {image} true
run --rm --mount type=bind,src=/tmp,dst=/x,foo=bar {image} true
run --rm --mount type=bind,src=/tmp,dst=/x,foo {image} true
run --rm --mount '' {image} true
run --rm --mount type=bind,src=/tmp,dst=/x,volume-nocopy=1 {image} true
run --rm --tmpfs /x:size=nonsense {image} true
run --rm --tmpfs /x:nonsense {image} true
run --rm --tmpfs x {image} true
run --rm --network nonsense {image} true
run --rm --network container:nope {image} true
run --rm --network container: {image} true
run --rm --network host -p 80:80 {image} true
run --rm --network host --hostname 'bad name' {image} true
run --rm --hostname bad_name! {image} hostname
run --rm --ipc nonsense {image} true
run --rm --ipc container:nope {image} true
run --rm --pid nonsense {image} true
run --rm --pid container:nope {image} true
run --rm --uts nonsense {image} true
run --rm --userns nonsense {image} true
run --rm --cgroupns nonsense {image} true
run --rm --cap-add nonsense {image} true
run --rm --cap-drop nonsense {image} true
run --rm --security-opt nonsense {image} true
run --rm --security-opt seccomp=/nope {image} true
run --rm --security-opt no-new-privileges=maybe {image} true
run --rm --security-opt apparmor=x {image} true
run --rm --restart nonsense {image} true
run --rm --restart always {image} true
run --restart on-failure:x {image} true
run --restart on-failure:-1 {image} true
run --restart always:3 {image} true
run --rm --stop-signal NONSENSE {image} true
run --rm --stop-timeout x {image} true
run --rm --oom-score-adj 2000 {image} true
run --rm --runtime nope {image} true
run --rm --group-add nogroup1 {image} true
run --rm -u nouser {image} true
run --rm -u 1:2:3 {image} true
run --rm -u -5 {image} true
run --rm -w rel {image} true
run --rm --name 'bad name' {image} true
run --rm --name a {image} true
run --rm --cidfile /nope/x {image} true
run --rm --cidfile /etc/passwd {image} true
run --rm --pull nonsense {image} true
run --rm --pull never nope/nope true
run --rm nope/nope:1 true
run --rm --platform linux/arm64 {image} true
run --rm Bad/Name true
run --rm --platform nonsense {image} true
run --rm --log-driver nonsense {image} true
run --rm --log-opt max-size=x {image} true
run --rm -a nonsense {image} true
run --rm -d -a stdout {image} true
run --rm -it {image} true
run --rm --add-host x {image} true
run --rm --add-host x:nonsense {image} true
run --rm --dns x {image} true
run --rm --dns-search 'bad domain' {image} true
run --rm --mac-address zz {image} true
run --rm --ip x {image} true
run --rm --ip 1.2.3.4 {image} true
run --rm --link-local-ip x {image} true
run --rm --link-local-ip 169.254.1.1 {image} true
run --rm --network-alias a {image} true
run --rm --link nope {image} true
run --rm --volumes-from nope {image} true
run --rm --volume-driver x {image} true
run --rm --storage-opt x {image} true
run --rm --storage-opt size=1g {image} true
run --rm --gpus all {image} true
run --rm --gpus x {image} true
run --rm --isolation x {image} true
run --rm --blkio-weight 5 {image} true
run --rm --blkio-weight x {image} true
run --rm --blkio-weight-device x {image} true
run --rm --blkio-weight-device /dev/null:5 {image} true
run --rm --blkio-weight-device /dev/null:500 {image} true
run --rm --blkio-weight-device null:500 {image} true
run --rm --device-read-bps x {image} true
run --rm --device-read-bps /dev/null:x {image} true
run --rm --device-read-bps /dev/null:1mb {image} true
run --rm --device-read-iops /dev/null:x {image} true
run --rm --device-read-iops /dev/null:1 {image} true
run --rm --device-write-bps null:1 {image} true
run --rm --device-write-iops /dev/null:-1 {image} true
run --rm --cpu-count 1 {image} true
run --rm --cpu-percent 1 {image} true
run --rm --cpu-rt-period 1 {image} true
run --rm --cpu-rt-runtime 1 {image} true
run --rm --cpu-period 1 {image} true
run --rm --cpu-quota 1 {image} true
run --rm --cpus 1 --cpu-quota 1000 {image} true
run --rm --disable-content-trust {image} true
run --rm --io-maxbandwidth 1m {image} true
run --rm --io-maxbandwidth x {image} true
run --rm --io-maxiops 1 {image} true
run --rm --kernel-memory 64m {image} true
run --rm --memory-swappiness 101 {image} true
run --rm --memory-swappiness 50 {image} true
run --rm --memory-reservation 128m -m 64m {image} true
run --rm --oom-kill-disable {image} true
run --rm --health-cmd x {image} true
run --rm --health-interval x {image} true
run --rm --health-interval 1us --health-cmd x {image} true
run --rm --health-retries x {image} true
run --rm --health-retries -1 {image} true
run --rm --no-healthcheck --health-cmd x {image} true
run --rm --no-healthcheck {image} echo hi
run --rm --annotation x {image} echo hi
run --rm --annotation =x {image} echo hi
run --rm --rm=maybe {image} true
run --rm=maybe {image} true
run -Z {image} true
run -m
run --rm -P {image} true
run --rm --init {image} echo x
run --rm --tmpfs /x:size=1m --tmpfs /x {image} true
run -q --rm {image} echo x
run --rm --entrypoint '' {image} echo x
run --rm --entrypoint '' {image}
run --rm -h x --network container:cli-box {image} true
run --rm --init=false {image} echo x
run --rm -ti=false {image} echo x
run --rm -e NOTSET -e PATH {image} sh -c 'echo $NOTSET $PATH'
run --rm --env-file {folder}/good -e GOOD=2 {image} sh -c 'echo $GOOD'
create --cidfile /etc/passwd {image}
create --cidfile /nope/x {image}
create -m x {image}
create --pid x {image}
create --cpu-count 1 {image}
create --restart foo:x {image}
"""

# command line → why corten's answer is another; a row whose answers are the same fails
DIFFERENT = {
    "images a b": "docker 28.2 prints `SRun`, a slip of its own",
    "images --tree": "corten has no colours there, and does not cut names off",
    "images --format json": "containers are counted since API 1.51, which docker 28.2 does not speak",
    "system df -v": "corten adds what the packed layers and the logs take",
    "stats --no-stream --format json cli-new": "corten shows pressure, throttling, peaks and limits that were hit, too",
    "info": "the client's own version",
    "version": "the client's own versions",
    "version --format json": "the client's own versions",
    "inspect -f '{{.HostConfig}}' cli-box": "docker prints the addresses of Go's pointers",
    "inspect -f '{{json .}}' cli-box": "the keys have the order of Go's fields; corten keeps the engine's",
    "start -ai cli-paused": "docker says `unable to upgrade to tcp, received 409`; corten what the engine answered",
    "load -i /tmp": "docker says `error during connect: Post …`",
    "exec --detach-keys zz cli-box true": "corten names the key, and makes no exec",
    "run --rm --detach-keys zz {image} true": "docker says `unable to upgrade to tcp, received 400`",
    "run --rm -p nonsense=80,target=80 {image} true": "docker takes a key that it does not know in silence",
    "run --rm -p ::1:80:80 {image} true": "corten says how to write an IPv6 address",
    "run --rm --security-opt seccomp=/etc/passwd {image} true": "the JSON reader's own words",
    "run --rm --disable-content-trust=false {image} true": "not supported yet",
}
