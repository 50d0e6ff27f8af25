# shellcheck shell=bash
# Sourced by run and kubernetes. The test cluster has one user at a time: who holds the lock on file
# descriptor 9 uses it.

# own_test_cluster CLUSTER: takes the lock. A cluster that runs although nobody holds the lock was left by a
# run that was killed; it is ended. What the cluster starts does not inherit the lock.
own_test_cluster() {
  exec 9>"${TMPDIR:-/tmp}/kvcluster-kubernetes.lock"
  flock --nonblock 9 || { echo "$(basename "$0"): another run uses the test cluster" >&2; return 1; }
  if "$1" run true >/dev/null 2>&1 9>&-; then
    echo "$(basename "$0"): ends the test cluster that an earlier run left"
    "$1" down 9>&-
  fi
}
