"""The scripts that are played on dockerd and on Corten, and the differences between the two that stay.

`{image}` is busybox, `{shared}` a folder of the engine's, `{parent}` a cgroup's name; ` <<< 'text'` is stdin.
Options are created (CREATED, all in the gate) and run (the others).
"""

from __future__ import annotations

from clients.side_by_side import Known

# Every option of `docker create`, so that each shows in inspect.
CREATED = """
create --name plain {image}
create --name command {image} echo a 'b c'
create --name add-host --add-host one:10.0.0.1 --add-host two:::1 --add-host gate:host-gateway {image}
create --name annotation --annotation a=b --annotation c= {image}
create --name attach -a stdin -a stdout {image}
create --name attach-2 -a stderr {image}
create --name blkio --blkio-weight 300 {image}
create --name blkio-device --blkio-weight-device /dev/vda:300 {image}
create --name read-bps --device-read-bps /dev/vda:1mb --device-write-bps /dev/vda:2mb {image}
create --name read-iops --device-read-iops /dev/vda:100 --device-write-iops /dev/vda:200 {image}
create --name caps --cap-add net_admin --cap-add CAP_SYS_TIME --cap-drop chown {image}
create --name caps-all --cap-add ALL --cap-drop MKNOD {image}
create --name cgroup-parent --cgroup-parent /{parent} {image}
create --name cgroupns --cgroupns host {image}
create --name cgroupns-2 --cgroupns private {image}
create --name cpu-period --cpu-period 50000 --cpu-quota 20000 {image}
create --name cpu-rt-period --cpu-rt-period 1000 {image}
create --name cpu-rt-runtime --cpu-rt-runtime 1000 {image}
create --name cpu-shares -c 512 {image}
create --name cpus --cpus 1.5 {image}
create --name cpuset --cpuset-cpus 0-1 --cpuset-mems 0 {image}
create --name cpu-count --cpu-count 1 {image}
create --name cpu-percent --cpu-percent 50 {image}
create --name io-max --io-maxbandwidth 1m --io-maxiops 5 {image}
create --name device --device /dev/null:/dev/hole:rw --device /dev/zero {image}
create --name device-rule --device-cgroup-rule 'c 1:3 mr' {image}
create --name dns --dns 10.9.8.7 --dns-search a.example --dns-opt ndots:2 {image}
create --name domain --hostname stone --domainname quarry.example {image}
create --name entrypoint --entrypoint /bin/echo {image} x
create --name entrypoint-none --entrypoint '' {image} echo x
create --name env -e A=b -e C= -e D {image}
create --name expose --expose 80 --expose 81/udp --expose 90-92 {image}
create --name gpus --gpus all {image}
create --name gpus-2 --gpus 'device=0,capabilities=utility' {image}
create --name groups --group-add audio --group-add 777 {image}
create --name health --health-cmd true --health-interval 5s --health-timeout 3s --health-retries 2 {image}
create --name health-2 --health-cmd true --health-start-period 1s --health-start-interval 2s {image}
create --name no-health --no-healthcheck {image}
create --name hostname -h marble {image}
create --name init --init {image}
create --name stdin -i {image}
create --name ip --ip 172.17.0.77 {image}
create --name ipc --ipc shareable {image}
create --name ipc-2 --ipc host {image}
create --name ipc-3 --ipc none {image}
create --name ipc-4 --ipc container:ipc {image}
create --name isolation --isolation default {image}
create --name kernel-memory --kernel-memory 64m {image}
create --name label -l a=b --label c {image}
create --name link --link plain:alias {image}
create --name link-local --link-local-ip 169.254.7.7 {image}
create --name log --log-driver json-file --log-opt max-size=1m --log-opt max-file=3 {image}
create --name log-none --log-driver none {image}
create --name log-local --log-driver local {image}
create --name mac --mac-address 02:42:ac:11:00:99 {image}
create --name memory -m 64m --memory-reservation 32m {image}
create --name memory-swap -m 64m --memory-swap 128m {image}
create --name memory-swap-2 -m 64m --memory-swap -1 {image}
create --name swappiness --memory-swappiness 10 {image}
create --name mount --mount type=bind,src={shared},dst=/a,readonly {image}
create --name mount-2 --mount type=bind,src={shared},dst=/a,bind-propagation=rslave,bind-recursive=disabled {image}
create --name mount-3 --mount type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=0700 {image}
create --name mount-4 --mount type=volume,src=kept,dst=/v,volume-nocopy,volume-label=a=b {image}
create --name mount-5 --mount type=volume,dst=/v {image}
create --name network --network none {image}
create --name network-2 --network host {image}
create --name network-3 --network container:plain {image}
create --name network-4 --network bridge --network-alias other {image}
create --name oom --oom-kill-disable --oom-score-adj 200 -m 64m {image}
create --name pid --pid host {image}
create --name pid-2 --pid container:plain {image}
create --name pids --pids-limit 77 {image}
create --name pids-none --pids-limit -1 {image}
create --name pids-zero --pids-limit 0 {image}
create --name platform --platform linux/amd64 {image}
create --name privileged --privileged {image}
create --name publish -p 8080:80 -p 127.0.0.1:8081:81/udp -p 82 -p 8090-8092:90-92 {image}
create --name publish-all -P --expose 80 {image}
create --name publish-6 -p '[::1]:8088:80' {image}
create --name pull --pull never {image}
create --name read-only --read-only {image}
create --name restart --restart on-failure:3 {image}
create --name restart-2 --restart unless-stopped {image}
create --name rm --rm {image}
create --name runtime --runtime crun {image}
create --name security --security-opt no-new-privileges --security-opt seccomp=unconfined {image}
create --name security-2 --security-opt apparmor=unconfined --security-opt label=disable {image}
create --name security-3 --security-opt systempaths=unconfined {image}
create --name shm --shm-size 3m {image}
create --name signal --stop-signal USR1 --stop-timeout 7 {image}
create --name storage --storage-opt size=1g {image}
create --name sysctl --sysctl net.ipv4.ip_forward=0 --sysctl kernel.msgmax=4242 {image}
create --name tmpfs --tmpfs /t --tmpfs /u:size=1m,mode=700 {image}
create --name tty -t {image}
create --name tty-in -ti {image}
create --name ulimit --ulimit nofile=100:200 --ulimit core=0 {image}
create --name user -u 1000:50 {image}
create --name userns --userns host {image}
create --name uts --uts host {image}
create --name volume -v {shared}:/a {image}
create --name volume-2 -v {shared}:/a:ro,rslave {image}
create --name volume-3 -v named:/a {image}
create --name volume-4 -v /anonymous {image}
create --name volume-5 -v named:/a:ro,nocopy {image}
create --name volume-driver --volume-driver local -v other:/a {image}
create --name volumes-from --volumes-from volume --volumes-from volume-3:ro {image}
create --name workdir -w /made/here {image}
create --name content-trust --disable-content-trust=false {image}
create --name quiet -q {image}
create --name cidfile --cidfile {shared}/cid {image}
create --name dns-option --dns-option ndots:3 {image}
create --name env-file --env-file {shared}/env {image}
create --name label-file --label-file {shared}/env {image}
create --name ip6 --ip6 fd00::77 {image}
create --name api-socket --use-api-socket {image}
"""

# The life of a container, verb by verb.
LIFE = """
run --name done {image} sh -c 'echo out; sleep 0.2; echo err >&2; exit 3'
start -a done
logs done
logs --tail 1 done
wait done
run -d --name web --label tier=front -e A=b -p 127.0.0.1:8093:80 {image} sleep 1000
port web
port web 80/tcp
top web -o comm
exec web echo inside
exec -e X=1 -w /tmp -u 1000 web sh -c 'echo $X; pwd; id -u'
exec web nonesuch
exec web sh -c 'exit 9'
exec -i web cat <<< 'through'
ps --format '{{.Names}} {{.Image}} {{.Command}} {{.State}} {{.Ports}} {{.Labels}}'
ps -a --format '{{.Names}} {{.Status}}'
rename web site
pause site
exec site true
unpause site
update --memory 64m --memory-swap 128m --cpu-shares 300 --pids-limit 90 --restart on-failure:2 site
inspect -f '{{.HostConfig.Memory}} {{.HostConfig.PidsLimit}} {{.HostConfig.RestartPolicy}}' site
diff done
commit -m said -a me -c 'CMD ["true"]' done made:1
run --rm made:1
history --no-trunc --format '{{.ID}} {{.CreatedBy}} {{.Comment}}' made:1
commit -c 'ENTRYPOINT ["sh"]' done made:3
commit -c 'CMD ["-c", "true"]' -c 'ENTRYPOINT ["sh"]' done made:4
rmi made:3 made:4
tag made:1 made:2
rmi made:2
kill -s TERM site
stop -t 0 site
inspect -f '{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}}' site
rm site
rm site
rm done
rmi made:1
"""

# What a container is like inside, with options that show there.
INSIDE = """
run --rm {image} sh -c 'cat /proc/self/mountinfo | cut -d" " -f5,6 | sort'
run --rm {image} env
run --rm {image} cat /proc/self/limits
run --rm {image} sh -c 'grep -E "^(Cap|Seccomp|NoNewPrivs|Groups|Uid|Gid)" /proc/self/status'
run --rm {image} sh -c 'cd /dev; stat -c "%A %u %g %t %T %N" *'
run --rm {image} sh -c 'stat -c "%A %u %g %N" /* /.d* /etc/*'
run --rm -u 1000:50 --group-add 7 {image} id
run --rm --read-only --tmpfs /t {image} sh -c 'touch /x; touch /t/x && ls /t'
run --rm --device-read-bps /dev/vda:1mb --device-write-iops /dev/vda:100 {image} true
run --rm --device-read-bps /dev/nope:1mb {image} true
run --rm --blkio-weight 5 {image} true
run --rm --blkio-weight-device /dev/vda:300 {image} true
run --rm --cpu-rt-runtime 1000 {image} true
run --rm --gpus all {image} true
run --rm --gpus 'driver=x,"capabilities=a,b"' {image} true
run --rm --storage-opt size=1g {image} true
run --rm --storage-opt x=1g {image} true
run --rm --shm-size 3m {image} df -k /dev/shm
run --rm --add-host one:10.0.0.1 {image} grep one /etc/hosts
run --rm --dns 10.9.8.7 --dns-search a.example --dns-opt ndots:2 {image} grep -v '^#' /etc/resolv.conf
run --rm --annotation a=b {image} true
run --rm --sysctl net.ipv4.ip_default_ttl=70 {image} cat /proc/sys/net/ipv4/ip_default_ttl
run --rm --cgroupns private {image} cat /proc/self/cgroup
run --rm --security-opt systempaths=unconfined {image} sh -c 'ls /proc/acpi; echo $?'
run --rm --oom-kill-disable -m 64m {image} true
run --rm --network none {image} ip -o link
run --rm --network host --uts host {image} sh -c 'hostname | wc -l'
run --rm -v {shared}:/v:ro {image} touch /v/x
run --rm -w /made/here {image} pwd
run --rm --init {image} ps -o comm
"""

# What an engine says of itself, and lists.
ENGINE = """
create --name one --label a=b {image} true
network ls --format '{{.Name}} {{.Driver}} {{.Scope}} {{.IPv6}} {{.Internal}} {{.Labels}}'
network inspect bridge -f '{{json .IPAM}} {{json .Options}} {{.EnableIPv6}} {{.Ingress}}'
network inspect host none
network inspect nope
info -f '{{.Driver}} {{.CgroupDriver}} {{.CgroupVersion}} {{.LoggingDriver}} {{.OSType}} {{.Architecture}} {{.NCPU}}'
info -f '{{.Containers}} {{.ContainersRunning}} {{.ContainersPaused}} {{.ContainersStopped}} {{.Images}}'
info -f '{{json .Plugins}} {{json .SecurityOptions}} {{.Swarm.LocalNodeState}} {{.LiveRestoreEnabled}}'
info -f '{{.MemoryLimit}} {{.SwapLimit}} {{.CPUShares}} {{.CPUSet}} {{.PidsLimit}} {{.OomKillDisable}}'
info -f '{{.IPv4Forwarding}} {{.BridgeNfIptables}} {{.Debug}} {{.ExperimentalBuild}} {{.IndexServerAddress}}'
info -f '{{json .RegistryConfig}}'
version -f '{{.Server.Os}} {{.Server.Arch}} {{.Server.KernelVersion}} {{.Server.MinAPIVersion}}'
ps -a --no-trunc --format '{{.Names}} {{.Command}} {{.Labels}} {{.Mounts}} {{.Networks}} {{.Size}}'
images --format '{{.Repository}} {{.Tag}} {{.Size}} {{.ID}}'
image inspect {image}
image inspect nope
history {image}
system df --format '{{.Type}} {{.TotalCount}} {{.Active}}'
container prune -f --filter label=nope
rm -f one
volume ls
volume inspect nope
volume prune -f
network prune -f
image prune -f
swarm leave
node ls
plugin ls
search --limit 1 nope.invalid/x
"""

# Links on the default bridge.
LINKS = """
run -d --name one -e X=1 -e 'Y=a b' -p 127.0.0.1:8094:8080 --expose 81/udp --expose 90-92 {image} sleep 1000
run -d --name two --link one:al-ias --link one {image} sleep 1000
exec two sh -c 'env | sort'
exec two sort /etc/hosts
exec two sh -c 'ping -c 1 -W 5 -q al-ias | grep received'
inspect -f '{{len .HostConfig.Links}} {{json .NetworkSettings.Networks.bridge.Links}}' two
ps --no-trunc --format '{{.Names}}'
restart -t 0 one
exec two sort /etc/hosts
rename one uno
inspect -f '{{len .HostConfig.Links}}' two
run --name three --link nope:x {image} true
run --name three --link uno:x:y {image} true
stop -t 0 uno
run --name four --link uno:x {image} true
rm --link two/al-ias
rm --link two
rm --link nope/x
inspect -f '{{len .HostConfig.Links}}' two
"""

# Networks of one's own: made, joined by containers that run or not, left, removed.
NETWORKS = """
network create --subnet 10.98.1.0/24 one
network create one
network create --subnet 10.98.1.0/24 two
network create --subnet 10.98.1.7/24 two
network create --subnet 10.98.2.0 two
network create --subnet 10.98.2.0/24 --gateway 10.98.3.1 two
network create --subnet 10.98.2.0/24 --gateway 10.98.2.9 --ip-range 10.98.2.128/25 --aux-address a=10.98.2.5 two
network create --subnet 10.98.3.0/24 --subnet fd98::/64 --ipv6 three
network create --subnet 10.98.4.0/24 --internal --label a=b --label c --attachable inner
network create --subnet 10.98.5.0/24 -o com.docker.network.bridge.enable_icc=false quiet
network create --subnet 10.98.6.0/24 -o com.docker.network.bridge.name=cmp98 named
network create -d nonsense x
network create -d host x
network create -d null x
network create --ipam-driver nonsense x
network create bridge
network create none
network create --subnet 10.98.11.0/24 'a b'
network create --subnet 10.98.12.0/24 .x
network rm 'a b' .x
network create ''
network create ' '
network create --subnet 10.98.7.0/24 -o com.docker.network.driver.mtu=nonsense x
network create --subnet 10.98.7.0/24 -o com.docker.network.bridge.enable_icc=nonsense x
network create --subnet 10.98.7.0/24 -o com.docker.network.bridge.host_binding_ipv4=nonsense x
network ls --filter driver=bridge --format '{{.Name}} {{.Driver}} {{.Scope}} {{.IPv6}} {{.Internal}} {{.Label "a"}}'
network ls --filter name=e --format '{{.Name}}'
network ls --filter label=a=b --format '{{.Name}}'
network ls --filter label=nope --format '{{.Name}}'
network ls --filter type=custom --format '{{.Name}}'
network ls --filter type=builtin --format '{{.Name}}'
network ls --filter type=nonsense
network ls --filter dangling=true --format '{{.Name}}'
network ls --filter dangling=false --format '{{.Name}}'
network ls --filter scope=swarm --format '{{.Name}}'
network ls --filter nonsense=x
run -d --name web --network one --network-alias www --ip 10.98.1.50 {image} sleep 1000
network inspect one
exec web cat /etc/resolv.conf
exec web sh -c 'grep -v 172.17 /etc/hosts'
exec web sh -c 'ip -o -4 addr show eth0 | cut -d" " -f2-9'
network ls --filter dangling=true --filter name=one --format '{{.Name}}'
exec web ip route
network create --subnet 10.98.8.0/24 x
network rm x
network rm one
network connect one web
network connect two web
network connect --alias third --ip 10.98.3.33 --ip6 fd98::33 three web
exec web sh -c 'ip -o addr show | grep -v lo | grep -v fe80 | cut -d" " -f2-9'
exec web ip route
exec web nslookup -type=a www
exec web nslookup -type=a third.three
exec web nslookup -type=aaaa third.three
exec web nslookup -type=a nope.three
network connect inner web
exec web ip route
network disconnect two web
network disconnect two web
network disconnect nope web
network disconnect two nope
network connect nope web
network connect two nope
network connect host web
network connect none web
network disconnect host web
network connect --ip 10.98.4.1 quiet web
network connect --ip 10.98.1.50 one nope
create --name still --network one --ip 10.98.1.50 {image} sleep 1000
start still
network connect --link web:w two still
network disconnect one still
start still
exec still sh -c 'ip -o -4 addr show | cut -d" " -f2-9'
exec still nslookup -type=a w
stop -t 0 still
rename still moved
network inspect -f '{{len .Containers}}' two
create --name net-none --network none {image}
network connect one net-none
create --name net-host --network host {image}
network connect one net-host
create --name many --network name=one,alias=a,alias=b,ip=10.98.1.77 --network name=three,ip6=fd98::77 {image} sleep 1000
create --name wrong --network nope {image}
start wrong
create --name wrong-ip --network one --ip 10.77.1.1 {image}
start wrong-ip
create --name wrong-ip6 --network one --ip6 fd98::1 {image}
start wrong-ip6
create --name wrong-two --network one --network nope {image}
start wrong-two
create --name mac --network one --mac-address 02:98:00:00:00:01 {image} cat /sys/class/net/eth0/address
start -a mac
create --name bridge-alias --network bridge --ip 172.17.0.9 {image}
create --name opts --network name=one,driver-opt=a=b {image}
ps -a --filter network=one --format '{{.Names}}'
ps -a --filter network=nope --format '{{.Names}}'
start many
exec many ip route
restart -t 0 web
exec web sh -c 'ip -o -4 addr show | grep -v lo | cut -d" " -f2-7'
rm -f web
network rm three nope one
network rm quiet named two
rm -f moved many
network rm one one three
network prune -f --filter label=a
network prune -f --filter until=24h
network prune -f --filter nonsense=x
network prune -f
"""

SCRIPTS = {
    **{"options of create": CREATED, "life": LIFE, "inside": INSIDE, "engine": ENGINE, "links": LINKS},
    "networks": NETWORKS,
}

KNOWN = (
    Known(
        "create --name mount-5 *",
        ".changed.volume <id>.Labels",
        "a volume without a name is labelled as anonymous; dockerd forgets it for `--mount`",
        is_open=True,
    ),
    Known(
        "create --name volume-4 *",
        ".changed.row /volume-4.Mounts*Source",
        "dockerd's list does not know where a volume is before the first start",
        is_open=True,
    ),
    Known(
        "create --name pids-none *",
        ".changed.container /pids-none.HostConfig.PidsLimit",
        "Corten limits processes by default: -1 (none) stays told apart from null (the node's limit)",
    ),
    Known(
        "* site",
        ".changed.container /site.NetworkSettings.Networks.bridge.DNSNames",
        "dockerd lists names on the default bridge after a rename, and none before: there is no DNS on it",
    ),
    Known(
        "run --rm --cpu-rt-runtime *",
        ".answer.stderr",
        "the kernel refuses it on both; the words are the runtime's, and runc 1.1 joins its cgroups at another step",
    ),
    Known(
        "run --rm {image} sh -c 'cat /proc/self/mountinfo*",
        ".answer.stdout",
        "/proc/interrupts is masked, as by Docker 28, and not by 26.1",
    ),
    Known(
        "network inspect bridge *",
        ".answer.stdout",
        "the bridge has a name of the engine's own: it never takes or changes docker0",
    ),
    Known(
        "info -f '{{json .Plugins}}*",
        ".answer.stdout",
        "there is no overlay network, some log drivers are not served; containers always outlive the "
        "daemon (LiveRestoreEnabled)",
    ),
    Known("info -f '{{json .RegistryConfig}}'", ".answer.stdout", "::1 is a local registry as well, as for Docker 28"),
    Known("version -f *MinAPIVersion*", ".answer.stdout", "older than 1.40 is refused, as nobody speaks it any more"),
    Known("image inspect {image}", ".answer.stdout", "GraphDriver.Data: each engine lays out its own store"),
    Known("search *", ".answer.stderr", "there is no search of Docker Hub"),
    Known(
        "* uno",
        ".changed.container /uno.NetworkSettings.Networks.bridge.DNSNames",
        "dockerd lists names on the default bridge after a rename, and none before: there is no DNS on it",
    ),
    Known(
        "start still",
        ".changed.container /still.NetworkSettings.Networks.*.DNSNames",
        "names on networks are told of containers that have run; dockerd tells them after a start that failed, too",
    ),
    Known(
        "network * still",
        ".changed.container /still.NetworkSettings.Networks.*.DNSNames",
        "names on networks are told of containers that have run; dockerd tells them after a connect, too",
    ),
    Known(
        "rename still *",
        ".changed.container /moved.NetworkSettings.Networks.two.DNSNames*",
        "dockerd tells the old name of a stopped container until it starts",
    ),
    Known(
        "start -a mac",
        ".changed.* /mac.NetworkSettings.Networks.one.MacAddress",
        "the hardware address that was asked for stays told after the end",
    ),
    Known(
        "network rm *",
        ".changed.*",
        "a stopped container's inspect has no id of a network that is gone; dockerd's has",
    ),
    Known(
        "run --name four --link *",
        ".changed.*",
        "a link that leads nowhere is found before a network is made; dockerd shows that of the failed start",
    ),
)
