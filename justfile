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

# Fetch everything ahead, for work without network
setup:
    cargo xtask setup --matrix
