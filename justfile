# The common commands. `just` alone lists them; each is a plain command that works without just.

default:
    @just --list

# Start a leader and five followers, measure every write quorum, plot into out/
sweep *arguments:
    cargo run --release --bin kv-bench -- sweep {{arguments}}

# Measure throughput and latency
load *arguments:
    cargo run --release --bin kv-bench -- load {{arguments}}

# Break a cluster and judge what its clients saw
check *arguments:
    cargo run --release --bin kv-bench -- check {{arguments}}

# Format, and lint as CI does
lint:
    cargo fmt --all
    cargo clippy --workspace --all-targets --all-features --locked -- -D warnings

# All tests that need neither containers nor a cluster
test *arguments:
    cargo test --workspace {{arguments}}

# Links, commands, flags and settings of the documents
docs:
    cargo build --workspace
    tests/docs.py

# Licences, sources and duplicates of dependencies
deny:
    cargo deny check licenses bans sources

# The generated manifests and chart templates
generate:
    cargo run -p kv-controller -- crd > deploy/crd.yaml
    cargo run -p kv-controller -- manifests --part operator > deploy/operator.yaml
    cargo run -p kv-controller -- manifests --part chart-operator > charts/kvcluster/templates/operator.yaml
    cargo run -p kv-controller -- manifests --part chart-crd > charts/kvcluster/templates/crd.yaml

# The image kvcluster:dev
image profile="dist":
    docker build -f deploy/Dockerfile --build-arg PROFILE={{profile}} -t kvcluster:dev .

# A leader and five followers in containers, ports 8000-8005
up:
    cd deploy && docker compose up --wait

# End them; their data stays on volumes
down:
    cd deploy && docker compose down

# A cluster of kind with the operator and the KvCluster demo
kind: image
    kind create cluster --name kvcluster --config kind-config.yaml
    kind load docker-image kvcluster:dev --name kvcluster
    kubectl apply -f deploy/crd.yaml -f deploy/operator.yaml
    kubectl apply -f deploy/kvcluster.yaml
    kubectl wait --for=condition=Ready kvc/demo --timeout=3m

# Every check, as CI runs it; or some steps
ci *steps:
    .ci/run {{steps}}
