#!/usr/bin/env bash
# Runs this package as a job on a Cloud TPU, on one host or many. docs/tpu.md explains every step.
#
#   scripts/tpu.sh [--dry-run] create                  a TPU VM
#   scripts/tpu.sh [--dry-run] install                 this checkout and its packages, on all its hosts
#   scripts/tpu.sh [--dry-run] run <options of main>   starts the job on all hosts, in the background
#   scripts/tpu.sh [--dry-run] logs                    follows what one host says
#   scripts/tpu.sh [--dry-run] stop                    SIGTERM: the job saves and ends
#   scripts/tpu.sh [--dry-run] delete                  the TPU VM
#
# --dry-run prints the commands instead of running them. Variables, with their defaults:
#   TPU_NAME=actloc-jax              name of the TPU VM
#   TPU_ZONE=us-central1-a           where it is; TPU_PROJECT: of which project (default: gcloud's)
#   TPU_TYPE=v5litepod-8             chips; more than one host has are several hosts
#   TPU_VERSION=v2-alpha-tpuv5-lite  software of the VM, fits the type
#   TPU_QUEUED=0                     1: ask for a queued resource and wait in the queue
#   TPU_SPOT=0                       1: a spot VM, which may be taken away at any time
#   TPU_HOST=0                       whose log to follow
#   TPU_ATTEMPTS=20                  how often a host starts a job again that has failed
#   TPU_PAUSE=60                     seconds before it does
set -euo pipefail

NAME=${TPU_NAME:-actloc-jax}
ZONE=${TPU_ZONE:-us-central1-a}
FOLDER=actloc_jax # on the hosts, in the home folder
PYTHON=${TPU_PYTHON:-.venv/bin/python}

usage() { sed -n '2,/^set -euo/{/^set -euo/d;s/^# \{0,1\}//;p}' "$0"; }

call() { # runs a command, or prints it so that a shell can read it
    if [[ $dry_run == 0 ]]; then
        "$@"
        return
    fi
    local word line=''
    for word in "$@"; do
        [[ $word =~ ^[A-Za-z0-9_./=:,@+-]+$ ]] || word=${word@Q}
        line+="$word "
    done
    echo "${line% }"
}

tpus() { # gcloud's command group, and where the TPU is
    local group=$1 verb=$2
    shift 2
    call gcloud compute tpus "$group" "$verb" "$@" "--zone=$ZONE" ${TPU_PROJECT:+"--project=$TPU_PROJECT"}
}

on_hosts() { # a command on all hosts, or on one
    tpus tpu-vm ssh "$NAME" "--worker=$1" "--command=$2"
}

create() {
    local type=${TPU_TYPE:-v5litepod-8} version=${TPU_VERSION:-v2-alpha-tpuv5-lite} spot=()
    [[ ${TPU_SPOT:-0} == 1 ]] && spot=(--spot)
    if [[ ${TPU_QUEUED:-0} == 1 ]]; then
        tpus queued-resources create "$NAME" "--node-id=$NAME" "--accelerator-type=$type" \
            "--runtime-version=$version" ${spot[@]+"${spot[@]}"}
        tpus queued-resources describe "$NAME" "--format=value(state.state)"
    else
        tpus tpu-vm create "$NAME" "--accelerator-type=$type" "--version=$version" ${spot[@]+"${spot[@]}"}
    fi
}

install() { # what is committed; uv brings a Python that the image may not have
    local archive=${TMPDIR:-/tmp}/actloc_jax.tar.gz
    call git -C "$(dirname "$0")/.." archive --format=tar.gz "--output=$archive" HEAD
    tpus tpu-vm scp "$archive" "$NAME:actloc_jax.tar.gz" --worker=all
    on_hosts all "mkdir -p $FOLDER && tar -xzf actloc_jax.tar.gz -C $FOLDER && cd $FOLDER \
&& python3 -m pip install -q --user uv && python3 -m uv venv -q --clear --python 3.12 .venv \
&& python3 -m uv pip install -q --python .venv/bin/python -e '.[video,gcs]' 'jax[tpu]' \
&& .venv/bin/python -c 'import jax, actloc_jax; print(jax.__version__)'"
}

run() {
    [[ $# -gt 0 ]] || { echo "error: run needs the options of actloc_jax.main, such as --config=..." >&2 && exit 2; }
    local options
    options=$(printf '%q ' "$@")
    on_hosts all "cd $FOLDER && TPU_ATTEMPTS=${TPU_ATTEMPTS:-20} TPU_PAUSE=${TPU_PAUSE:-60} \
nohup setsid scripts/tpu.sh on-host $options > job.txt 2>&1 < /dev/null & sleep 1"
}

on_host() { # the job on this host: started again when it fails, for one host that fails takes the others down
    local child='' stopped=0 status=0 attempt
    trap 'stopped=1; [[ -n $child ]] && kill -TERM "$child" 2> /dev/null' TERM INT
    echo $$ > job.pid
    for ((attempt = 1; attempt <= ${TPU_ATTEMPTS:-20}; attempt++)); do
        "$PYTHON" -m actloc_jax.main "$@" &
        child=$!
        if [[ $stopped == 1 ]]; then kill -TERM "$child" 2> /dev/null || true; fi # it came before `child` was known
        while true; do # a signal ends `wait` before the child ends
            status=0
            wait "$child" || status=$?
            kill -0 "$child" 2> /dev/null || break
        done
        [[ $status == 0 || $stopped == 1 ]] && break
        echo "attempt $attempt of ${TPU_ATTEMPTS:-20} ended with status $status"
        sleep "${TPU_PAUSE:-60}" &
        wait $! || true
        [[ $stopped == 1 ]] && break
    done
    rm -f job.pid
    return "$status"
}

logs() { on_hosts "${TPU_HOST:-0}" "tail -n 100 -F $FOLDER/job.txt"; }

stop() { on_hosts all "kill -TERM \$(cat $FOLDER/job.pid)"; }

delete() {
    if [[ ${TPU_QUEUED:-0} == 1 ]]; then
        tpus queued-resources delete "$NAME" --force --quiet
    else
        tpus tpu-vm delete "$NAME" --quiet
    fi
}

dry_run=0
if [[ ${1:-} == --dry-run ]]; then
    dry_run=1
    shift
fi
command=${1:-help}
shift || true
case $command in
    create | install | run | logs | stop | delete) "$command" "$@" ;;
    on-host) on_host "$@" ;; # what `run` starts there
    help | -h | --help) usage ;;
    *) echo "error: unknown command '$command'" >&2 && usage >&2 && exit 2 ;;
esac
