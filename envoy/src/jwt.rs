//! JSON web tokens, and Envoy's own filter that checks them before ours reads their claims.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

/// Envoy's jwt_authn filter for [`token`]s: claims go to the dynamic metadata
/// `envoy.filters.http.jwt_authn` under `jwt_payload`. A request without a token passes, one with
/// a bad token gets 401.
#[must_use]
pub fn filter() -> Value {
    let key = json!({"kty": "oct", "alg": "HS256", "kid": "rig", "k": encode(SECRET)});
    json!({
        "name": "envoy.filters.http.jwt_authn",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3\
                      .JwtAuthentication",
            "providers": {
                "rig": {
                    "issuer": ISSUER,
                    "payload_in_metadata": "jwt_payload",
                    "forward": true,
                    "local_jwks": {"inline_string": json!({"keys": [key]}).to_string()},
                },
            },
            "rules": [{
                "match": {"prefix": "/"},
                "requires": {"requires_any": {"requirements": [
                    {"provider_name": "rig"},
                    {"allow_missing": {}},
                ]}},
            }],
        },
    })
}

/// A signed token with these claims, and an issuer and an expiry that [`filter`] takes; to be sent
/// as `authorization: Bearer …`.
#[must_use]
pub fn token(claims: &Value) -> String {
    let mut claims = claims.clone();
    claims["iss"] = json!(ISSUER);
    claims["exp"] = json!(EXPIRY);
    let header = json!({"alg": "HS256", "typ": "JWT", "kid": "rig"});
    let signed = [
        encode(header.to_string().as_bytes()),
        encode(claims.to_string().as_bytes()),
    ]
    .join(".");
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET).expect("a key of any length");
    mac.update(signed.as_bytes());
    format!("{signed}.{}", encode(&mac.finalize().into_bytes()))
}

fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

const ISSUER: &str = "https://issuer.test";

/// A secret of this test rig only.
const SECRET: &[u8] = b"a secret that guards nothing at all";

/// The year 2100.
const EXPIRY: u64 = 4_102_444_800;
