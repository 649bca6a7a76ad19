//! A real Envoy, a quota backend that misbehaves on request and an upstream, as one value.
