#!/bin/bash
# A real SLURM cluster of several nodes on this one machine, for tests and for trying things out.
#
#   slurm/cluster.sh up [nodes=4]        start it, and wait until every node is idle
#   eval "$(slurm/cluster.sh env)"       point sbatch, squeue, sacct ... of this shell at it
#   slurm/cluster.sh kill NAME           kill -9 of node1 (2, ...), slurmctld, slurmdbd, mariadbd or munged
#   slurm/cluster.sh start NAME          start it again
#   slurm/cluster.sh down                stop everything, jobs too, and leave nothing behind
#
# All of it lives in ${MASKRESTORE_CLUSTER:-/tmp/maskrestore-slurm}, its key and its database too; only
# the nodes' names are written elsewhere, to a marked line in /etc/hosts. One cluster at a time.
# Partitions: preemptible (default), and priority, whose jobs send those of the other back into the queue.
# Each node claims 2 CPUs and 4 GB, whatever this machine has. Needs root, but no systemd.
# Exit status: 0 done, 1 it does not run (the logs say why), 2 something that you can mend.
set -euo pipefail

readonly folder=${MASKRESTORE_CLUSTER:-/tmp/maskrestore-slurm}
readonly owned=$folder/made-by-cluster.sh  # holds the number of nodes
readonly hosts_mark="# slurm/cluster.sh in $folder."
readonly controller_port=26817 database_port=26819 first_node_port=26821
export PATH=$PATH:/usr/sbin:/sbin SLURM_CONF=$folder/slurm.conf
umask 022  # munged refuses folders that others can write to

complain() {
    echo "slurm/cluster.sh: $1" >&2
    exit 2
}

address_of() { getent ahostsv4 "$1" | awk 'NR == 1 {print $1}' || true; }

nodes() { seq --format='node%g' "$(cat "$owned")"; }

# The number alone could by now be another process's.
runs() { [ -f "$folder/run/$1" ] && grep -qszxF "SLURM_CONF=$SLURM_CONF" "/proc/$(cat "$folder/run/$1")/environ"; }

wait_for() {  # WHAT COMMAND...: until the command succeeds
    local what=$1 deadline=$((SECONDS + 30))
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < deadline)) || { echo "slurm/cluster.sh: waited 30 seconds for $what in vain" >&2; return 1; }
        sleep 0.1
    done
}

# A session of its own outlives the caller's process group and terminal; an empty environment keeps the
# caller's settings out of it. STARTED_BY, which slurmstepd inherits, is how `down` finds both again.
start() {
    local name=$1
    local -a command
    case $name in
        munged) command=(munged --foreground --key-file="$folder/munge/key" --socket="$folder/munge/socket"
            --pid-file="$folder/munge/pid" --seed-file="$folder/munge/seed") ;;
        mariadbd) command=(mariadbd --no-defaults --user=root --datadir="$folder/mariadb" --skip-networking
            --socket="$folder/mariadb.socket" --pid-file="$folder/mariadb.pid") ;;
        slurmdbd) command=(slurmdbd -D) ;;
        slurmctld) command=(slurmctld -D -f "$SLURM_CONF") ;;
        node*) command=(slurmd -D -N "$name" -f "$SLURM_CONF") ;;
    esac
    rm -f "$folder/run/$name"
    # shellcheck disable=SC2016  # $$ is the number of the daemon-to-be
    setsid --fork env --ignore-environment --chdir=/ PATH="$PATH" SLURM_CONF="$SLURM_CONF" \
        MYSQL_UNIX_PORT="$folder/mariadb.socket" STARTED_BY=slurm/cluster.sh \
        bash -c 'echo $$ >"$0" && exec "$@"' "$folder/run/$name" "${command[@]}" \
        </dev/null >>"$folder/log/$name.out" 2>&1
    wait_for "$name" runs "$name"
}

write_settings() {
    local host listen='' last_port=$((first_node_port + $(cat "$owned") - 1))
    host=$(uname -n)
    host=${host%%.*}
    # With these parameters SLURM listens only where this machine's own name points to. Where that is not
    # 127.0.0.1 (most containers) it cannot be told to, and listens everywhere; munge's key, which only
    # root can read, is then what keeps others out.
    [ "$(address_of "$host")" != 127.0.0.1 ] || listen=CommunicationParameters=NoCtldInAddrAny,NoInAddrAny

    (umask 077 && cat >"$folder/slurmdbd.conf") <<END
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=$database_port
$listen
SlurmUser=root
AuthInfo=socket=$folder/munge/socket
StorageType=accounting_storage/mysql
# localhost means the socket in MYSQL_UNIX_PORT, behind which MariaDB knows root without a password.
StorageHost=localhost
StorageUser=root
StorageLoc=slurm
PidFile=$folder/slurmdbd.pid
LogFile=$folder/log/slurmdbd
END
    # Nothing here uses cgroups, but slurmd does not start where it finds none, or version 2 without systemd.
    echo CgroupPlugin=cgroup/v1 >"$folder/cgroup.conf"
    cat >"$SLURM_CONF" <<END
ClusterName=maskrestore
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$controller_port
$listen
SlurmUser=root
# A job that was sent back starts no sooner than its credential expires: 120 seconds by default.
AuthInfo=socket=$folder/munge/socket,cred_expire=5
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool/%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd-%n.pid
SlurmctldLogFile=$folder/log/slurmctld
SlurmctldDebug=verbose
SlurmdLogFile=$folder/log/%n
SlurmdDebug=debug
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmdParameters=config_overrides
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=5
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$database_port
AccountingStoragePass=$folder/munge/socket
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=1000
# Impatient, since tests wait for it. A killed slurmd is DOWN after about 16 seconds: SlurmdTimeout, and
# MessageTimeout, for which a refused connection is tried again.
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
SlurmdTimeout=10
MessageTimeout=5
KillWait=15
MinJobAge=300
InactiveLimit=0
ReturnToService=2
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=node[1-$(cat "$owned")] NodeHostname=$host NodeAddr=127.0.0.1 Port=[$first_node_port-$last_port] CPUs=2 RealMemory=4000
PartitionName=preemptible Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=10 MaxTime=60
PartitionName=priority Nodes=ALL PriorityTier=10 PreemptMode=OFF
END
}

check_machine() {  # NUM_NODES
    local program name address missing=
    for program in munged mariadbd mariadb-install-db mariadb-admin slurmdbd slurmctld slurmd sbatch sacctmgr; do
        command -v "$program" >/dev/null || missing+=" $program"
    done
    [ -z "$missing" ] || complain "not installed:$missing. On Debian:
apt-get install -y --no-install-recommends slurm-wlm slurmdbd munge mariadb-server"
    [ "$(id -u)" = 0 ] || complain 'it needs root'
    # The settings of SLURM and MariaDB know no quotes, and the path of a socket has 107 characters at most.
    [[ $folder =~ ^/[A-Za-z0-9._/-]+$ && ${#folder} -lt 80 ]] || complain "MASKRESTORE_CLUSTER: an absolute path \
of letters, digits and ._-/, shorter than 80, not $folder"
    for name in $(seq --format='node%g' "$1"); do
        address=$(address_of "$name")
        [[ $address == '' || $address == 127.* ]] || complain "$name is a machine in your network ($address);
the cluster needs the name for itself"
    done
}

all_idle() { [ "$(sinfo --noheader --Node --partition=preemptible --states=idle | wc -l)" = "$(cat "$owned")" ]; }

gave_up() {
    trap - EXIT
    tail --lines=8 "$folder"/log/*.out >&2 || true
    down
    echo 'slurm/cluster.sh: the cluster did not come up; above are the ends of its logs' >&2
    exit 1
}

up() {  # NUM_NODES
    local name unknown=
    check_machine "$1"
    if [ -f "$owned" ]; then
        if for name in munged mariadbd slurmdbd slurmctld $(nodes); do runs "$name" || break; done; runs "$name"; then
            [ "$(cat "$owned")" = "$1" ] || complain "it is up with $(cat "$owned") nodes; for $1: down first"
            echo "up already: $1 nodes in $folder"
            return
        fi
        echo "not all of it runs in $folder: starting anew"
    fi
    down
    if (exec 3<>"/dev/tcp/127.0.0.1/$controller_port") 2>/dev/null; then
        complain "port $controller_port is taken, perhaps by a cluster in another folder: one at a time"
    fi
    mkdir "$folder"
    echo "$1" >"$owned"
    trap gave_up EXIT
    mkdir "$folder"/{log,munge,run,spool,state}
    # Launchers look nodes up by name. Whoever has such names already keeps them.
    for name in $(nodes); do [ -n "$(address_of "$name")" ] || unknown+=" $name"; done
    [ -z "$(tail --bytes=1 /etc/hosts)" ] || echo >>/etc/hosts  # its last line may be without an end
    [ -z "$unknown" ] || echo "127.0.0.1$unknown $hosts_mark" >>/etc/hosts
    (umask 077 && head --bytes=1024 /dev/urandom >"$folder/munge/key")
    mariadb-install-db --no-defaults --user=root --datadir="$folder/mariadb" --skip-test-db \
        --auth-root-authentication-method=socket >"$folder/log/mariadb-install-db.out" 2>&1
    write_settings
    start munged
    start mariadbd
    wait_for MariaDB mariadb-admin --no-defaults --socket="$folder/mariadb.socket" ping
    start slurmdbd
    wait_for slurmdbd sacctmgr --noheader list cluster
    sacctmgr --immediate add cluster maskrestore >/dev/null
    for name in slurmctld $(nodes); do start "$name"; done
    wait_for 'idle nodes' all_idle
    wait_for accounting sacct --allusers
    trap - EXIT
    echo "up: $1 nodes in $folder. For this shell: eval \"\$(slurm/cluster.sh env)\""
}

# Whole sessions, since a task's children may have another environment: those of the daemons and of
# slurmstepd, and those of tasks whose slurmstepd was killed. Never the caller's own.
sessions() {
    grep -lszxF "SLURM_CONF=$SLURM_CONF" /proc/[0-9]*/environ |
        xargs --no-run-if-empty grep -lszxE 'STARTED_BY=slurm/cluster.sh|SLURMD_NODENAME=node[0-9]+' |
        cut --delimiter=/ --fields=3 | xargs --no-run-if-empty ps -o sid= -p |
        awk -v own="$(ps -o sid= -p $$)" '$1 != own + 0 && $1 != 0 {print $1}' | sort -u | paste --serial --delimiters=, || true
}

down() {
    local found tries=0
    [ ! -e "$folder" ] || [ -f "$owned" ] || complain "$folder is not from here; remove it, or choose another MASKRESTORE_CLUSTER"
    while found=$(sessions) && [ -n "$found" ]; do
        ((++tries < 100)) || { echo "slurm/cluster.sh: sessions that cannot be killed: $found" >&2; exit 1; }
        pkill -KILL --session "$found" || true
        sleep 0.1
    done
    rm -rf "$folder"
    if grep -qF "$hosts_mark" /etc/hosts; then  # written in place, since containers mount it
        found=$(grep -vF "$hosts_mark" /etc/hosts || true)
        printf '%s\n' "$found" >/etc/hosts
    fi
}

check_up() {
    [ -f "$owned" ] || complain "no cluster in $folder: slurm/cluster.sh up"
}

check_name() {
    check_up
    [[ $1 =~ ^(munged|mariadbd|slurmdbd|slurmctld)$ ]] || nodes | grep -qx -- "$1" ||
        complain "no daemon $1; there are munged mariadbd slurmdbd slurmctld $(nodes | paste --serial --delimiters=' ')"
}

case "${1:-} $#" in
    'up 1') up 4 ;;
    'up 2')
        [[ ${2#nodes=} =~ ^[1-9][0-9]?$ ]] || complain "nodes=1 to nodes=99, not $2"
        up "${2#nodes=}"
        ;;
    'down 1') down ;;
    'env 1')
        check_up
        printf 'export SLURM_CONF=%q\n' "$SLURM_CONF"
        ;;
    'start 2')
        check_name "$2"
        if runs "$2"; then echo "$2 runs already"; else start "$2"; fi
        ;;
    'kill 2')
        check_name "$2"
        runs "$2" || complain "$2 does not run"
        kill -KILL "$(cat "$folder/run/$2")"
        while runs "$2"; do sleep 0.05; done
        ;;
    *)
        sed -n '2,/^set/ s/^# \{0,1\}//p' "$0" >&2
        exit 2
        ;;
esac
