# shellcheck shell=bash
# Sourced by the scripts beside it.

# These scripts start nodes on fixed ports. Another program that answers there would be tested instead.
require_free_ports() {
  local port
  for port in 8000 8001 8002 8003 8004 8005 8010; do
    if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
      echo "$(basename "$0"): port $port is in use by something else" >&2
      return 1
    fi
  done
}
