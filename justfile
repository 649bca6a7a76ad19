# Every recipe is a `cargo xtask` command; without just, type that.

# List the recipes
default:
    @just --list --unsorted

# --- Use it ---

# The guided tour: Envoy, a quota backend and the filter at work
demo *args:
    cargo xtask demo {{ args }}

# Judge a plugin configuration, an Envoy bootstrap or an Istio or Envoy Gateway manifest
check file:
    cargo xtask check {{ file }}

# Tell what would happen to a request: FILE --request 'GET /v1/x' -H 'k: v'
explain *args:
    cargo xtask explain {{ args }}

# Build dist/quota_gate.wasm
build *args:
    cargo xtask build {{ args }}

# Pack dist/ for users: module, OCI images, bill of materials, checksums; --push REFERENCE
dist *args:
    cargo xtask dist {{ args }}

# --- Before a commit ---

# Every check that CI runs, or the named ones
test *steps:
    cargo xtask test {{ steps }}

# What takes seconds: form, house rules, clippy, unit tests, promises in virtual time
quick:
    cargo xtask test fmt tidy deny clippy unit spec

# The promises on a real Envoy
e2e:
    cargo xtask test e2e

# The house rules alone
tidy:
    cargo xtask tidy

# Run the quick checks before each commit of this clone; --off ends that
hooks *args:
    cargo xtask hooks {{ args }}

# Put every file into its form
fmt:
    cargo fmt --all

# --- Now and then ---

# Take the module's imports and exports as the new expectation
bless:
    cargo xtask build --bless

# The side-by-side measurement
bench *args:
    cargo xtask bench {{ args }}

# A fleet of proxies in virtual time, as leases vary
simulate *args:
    cargo xtask simulate {{ args }}

# A load on a real Envoy while everything around it goes wrong
chaos *args:
    cargo xtask chaos {{ args }}

# Inputs without end for every door: minutes or hours
fuzz *args:
    cargo xtask fuzz {{ args }}

# Plant bugs, one at a time, and have the simulation catch each (minutes)
planted *args:
    cargo xtask planted {{ args }}

# Write envoy/quota-gate.schema.json and docs/reference.md
reference *args:
    cargo xtask reference {{ args }}

# An outage in quick time, for the dashboard's picture
rehearse *args:
    cargo xtask rehearse {{ args }}

# Fetch everything ahead, for work without network
setup:
    cargo xtask setup --matrix --servers
