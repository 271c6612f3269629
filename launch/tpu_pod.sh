#!/usr/bin/env bash
# Installs this directory on every worker of a TPU pod and runs a launcher there; capture also gets --distributed.
#
#   TPU=my-pod ZONE=us-central2-b launch/tpu_pod.sh launch/convert.py --source=ORG/NAME --output=models/NAME
#   TPU=my-pod ZONE=us-central2-b launch/tpu_pod.sh launch/capture.py --model=models/NAME --instructions=hexainst \
#       --output=gs://BUCKET/runs/NAME
#
# Paths are those of the workers, below ~/sparcom_jax. The run, which all of them write, must be at gs:// or on a
# shared disk. PYTHON names the workers' interpreter, 3.11 or later (default python3). After a kill, run the same
# command again.
set -euo pipefail

: "${TPU:?name of the TPU VM}" "${ZONE:?zone of the TPU VM}" "${1:?launcher, for example launch/capture.py}"
cd "$(dirname "$0")/.."
if [[ $1 == launch/capture.py ]]; then
  set -- "$@" --distributed
fi
launcher=$(printf '%q ' "$@")

archive=$(mktemp)
trap 'rm -f "$archive"' EXIT
tar --exclude=./.git --exclude=./.venv --exclude=./outputs --exclude=./models -czf "$archive" .
gcloud compute tpus tpu-vm scp "$archive" "$TPU:sparcom_jax.tar.gz" --zone="$ZONE" --worker=all
gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="
  set -euo pipefail
  mkdir -p sparcom_jax && tar -xzf sparcom_jax.tar.gz -C sparcom_jax && cd sparcom_jax
  [ -d .venv ] || ${PYTHON:-python3} -m venv .venv
  . .venv/bin/activate
  pip install --quiet -e '.[tpu]'
  export JAX_COMPILATION_CACHE_DIR=\$HOME/.cache/sparcom_jax
  python3 $launcher"
