//! The forms that a text may have to have: names, headers, paths, hosts, times.

use super::timestamp;
use crate::text;

/// The form of a text.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Form {
    /// A host, with or without a port.
    Authority,
    /// The name of an Envoy cluster.
    Cluster,
    /// A header of a denial: its name.
    DenialHeader,
    /// The name of a descriptor's entry.
    EntryName,
    /// A header's value.
    HeaderValue,
    /// A host without a port, or `*.` and a host.
    Host,
    /// Printable text on one line.
    Line,
    /// An HTTP method.
    Method,
    /// A backend's name, which becomes a metric's tag.
    Name,
    /// An origin of CORS, or `*`.
    Origin,
    /// The path of a URL, without a query.
    Path,
    /// The path of a URL, with a query if wanted.
    PathAndQuery,
    /// A JSON pointer.
    Pointer,
    /// A declared policy's name, which becomes a metric's tag.
    PolicyName,
    /// A header that is read from a request: its name.
    ReadHeader,
    /// A header's value that is a secret.
    Secret,
    /// A header that is sent to a backend: its name.
    SentHeader,
    /// A timestamp of RFC 3339.
    Time,
    /// The name of a backend, where one is meant.
    ToBackend,
    /// The name of a policy, or `off`, where one is meant.
    ToPolicy,
    /// A header that a trusted caller sends: its name.
    TrustedHeader,
}

/// Why a text does not have its form.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// It may not be used here.
    Forbidden(&'static str),
    /// It is something else.
    Malformed,
    /// It has more bytes than this.
    TooLong(usize),
}

impl Form {
    /// Checks a text.
    ///
    /// # Errors
    /// Why it does not have the form.
    pub fn check(self, text: &str) -> Result<(), Fault> {
        let max = self.max_bytes();
        if text.len() > max {
            return Err(Fault::TooLong(max));
        }
        if text.is_empty() {
            return Err(Fault::Malformed);
        }
        let fits = match self {
            Self::Authority => all(text, |byte| visible(byte) && !b"/?#@,\"".contains(&byte)),
            Self::Cluster => all(text, visible),
            Self::DenialHeader => return sent_header(text, FORBIDDEN_IN_DENIALS),
            Self::EntryName => all(text, |byte| name_byte(byte) || byte == b'.'),
            Self::HeaderValue | Self::Secret => {
                all(text, |byte| visible(byte) || byte == b' ')
                    && !text.starts_with(' ')
                    && !text.ends_with(' ')
            }
            Self::Host => host(text.strip_prefix("*.").unwrap_or(text)),
            Self::Line => !text.chars().any(char::is_control),
            Self::Method => token(text),
            Self::Name | Self::ToBackend | Self::ToPolicy => all(text, name_byte),
            Self::Origin => text == "*" || origin(text),
            Self::Path => text.starts_with('/') && all(text, path_byte),
            Self::PathAndQuery => {
                text.starts_with('/') && all(text, |byte| path_byte(byte) || byte == b'?')
            }
            Self::Pointer => {
                text.starts_with('/')
                    && !text.chars().any(char::is_control)
                    && text
                        .split('~')
                        .skip(1)
                        .all(|after| after.starts_with(['0', '1']))
            }
            Self::PolicyName if text == "off" => {
                return Err(Fault::Forbidden("means no policy, choose another name"));
            }
            Self::PolicyName => all(text, name_byte),
            Self::ReadHeader => token(text) || PSEUDO_HEADERS.contains(&text),
            Self::SentHeader => return sent_header(text, FORBIDDEN_IN_CALLS),
            Self::Time => timestamp::parse(text).is_some(),
            Self::TrustedHeader => return sent_header(text, &[]),
        };
        if fits { Ok(()) } else { Err(Fault::Malformed) }
    }

    /// The form, in words that fit behind "expected".
    #[must_use]
    pub const fn expected(self) -> &'static str {
        match self {
            Self::Authority => "a host, with or without a port",
            Self::Cluster => "the name of an Envoy cluster, without spaces",
            Self::DenialHeader | Self::SentHeader | Self::TrustedHeader => {
                "a header's name, like `x-name`"
            }
            Self::EntryName => "a name of letters, digits, `_`, `-` and `.`",
            Self::HeaderValue | Self::Secret => "a header's value: printable ASCII on one line",
            Self::Host => "a host without a port, like `api.example.com` or `*.example.com`",
            Self::Line => "a printable text on one line",
            Self::Method => "an HTTP method, like `GET`",
            Self::Name | Self::PolicyName => "a name of letters, digits, `_` and `-`",
            Self::Origin => "`*` or an origin, like `https://app.example`",
            Self::Path => "a path that begins with `/`, without query and spaces",
            Self::PathAndQuery => "a path that begins with `/`, without spaces",
            Self::Pointer => "a JSON pointer, like `/data/remaining`",
            Self::ReadHeader => {
                "a header's name, like `x-name`, `:authority`, `:method`, `:path` or `:scheme`"
            }
            Self::ToBackend => "a backend's name",
            Self::ToPolicy => "a policy's name, or `off`",
            Self::Time => "a time of RFC 3339, like `2027-01-31T22:00:00Z`",
        }
    }

    /// How many bytes it may have at most.
    #[must_use]
    pub const fn max_bytes(self) -> usize {
        match self {
            Self::EntryName
            | Self::Method
            | Self::Name
            | Self::PolicyName
            | Self::Time
            | Self::ToBackend
            | Self::ToPolicy => 64,
            Self::DenialHeader | Self::ReadHeader | Self::SentHeader | Self::TrustedHeader => 128,
            Self::Authority
            | Self::Cluster
            | Self::Host
            | Self::Line
            | Self::Origin
            | Self::Pointer => 256,
            Self::HeaderValue | Self::Path | Self::PathAndQuery => 1_024,
            Self::Secret => 8_192,
        }
    }

    /// Whether what was given may be repeated in a problem.
    #[must_use]
    pub const fn is_secret(self) -> bool {
        matches!(self, Self::Secret)
    }

    /// Whether it is the name of a header, whose case does not count.
    #[must_use]
    pub const fn is_header(self) -> bool {
        matches!(
            self,
            Self::DenialHeader | Self::ReadHeader | Self::SentHeader | Self::TrustedHeader
        )
    }

    /// The form as a regular expression of JSON Schema; it may allow a little more.
    #[cfg(not(target_arch = "wasm32"))]
    #[must_use]
    pub const fn pattern(self) -> &'static str {
        match self {
            Self::Authority => r#"^[^\s/?#@,"]+$"#,
            Self::Cluster => "^[!-~]+$",
            Self::DenialHeader | Self::Method | Self::SentHeader | Self::TrustedHeader => {
                "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"
            }
            Self::EntryName => "^[A-Za-z0-9_.-]+$",
            Self::HeaderValue | Self::Secret => "^[!-~]([ -~]*[!-~])?$",
            Self::Host => r"^(\*\.)?(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*)$",
            Self::Line => r"^[^\u0000-\u001f\u007f-\u009f]+$",
            Self::Name | Self::ToBackend | Self::ToPolicy => "^[A-Za-z0-9_-]+$",
            Self::Origin => r"^(\*|[A-Za-z][A-Za-z0-9+.-]*://[^/?#@\s]+)$",
            Self::Path => r"^/[^\s?#]*$",
            Self::PathAndQuery => r"^/[^\s#]*$",
            Self::Pointer => "^(/([^/~]|~[01])*)+$",
            Self::PolicyName => "^(?!off$)[A-Za-z0-9_-]+$",
            Self::ReadHeader => "^([!#$%&'*+.^_`|~0-9A-Za-z-]+|:authority|:method|:path|:scheme)$",
            Self::Time => r"^\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d+)?([Zz]|[+-]\d{2}:\d{2})$",
        }
    }
}

/// A header that is sent, to a backend or with a denial: none that steers Envoy or the connection.
fn sent_header(name: &str, forbidden: &[&str]) -> Result<(), Fault> {
    let name = name.to_ascii_lowercase();
    if name.starts_with(':') {
        return Err(Fault::Forbidden("is a pseudo-header, set by Envoy"));
    }
    if !token(&name) {
        return Err(Fault::Malformed);
    }
    if name.starts_with("x-envoy-") {
        return Err(Fault::Forbidden("steers Envoy itself"));
    }
    if HOP_BY_HOP.contains(&name.as_str()) {
        return Err(Fault::Forbidden("belongs to the connection, set by Envoy"));
    }
    let ours = forbidden.iter().any(|own| match own.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == *own,
    });
    if ours {
        return Err(Fault::Forbidden("is set by the filter itself"));
    }
    Ok(())
}

/// A name or an address, as in a URL but without a port.
fn host(text: &str) -> bool {
    if let Some(address) = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        return all(address, |byte| {
            byte.is_ascii_hexdigit() || byte == b':' || byte == b'.'
        });
    }
    text.split('.').all(|label| all(label, name_byte))
}

/// `scheme://host[:port]`, and nothing behind it.
fn origin(text: &str) -> bool {
    // No scheme has a colon in it. (To look for all three at once takes a kilobyte of code.)
    let parts = text.split_once(':');
    let parts = parts.and_then(|(scheme, rest)| Some((scheme, rest.strip_prefix("//")?)));
    let Some((scheme, authority)) = parts else {
        return false;
    };
    let (name, port) = match authority.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        Some(_) | None => (authority, None),
    };
    scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && all(scheme, |byte| {
            byte.is_ascii_alphanumeric() || b"+.-".contains(&byte)
        })
        && host(name)
        && port.is_none_or(|port| {
            let port = text::parse_decimal(port.as_bytes());
            port.is_some_and(|port| (1..=PORT_MAX).contains(&port))
        })
}

/// A token of RFC 9110.
fn token(text: &str) -> bool {
    all(text, |byte| {
        byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
    })
}

/// By a pointer, so that there is one loop for all sets of bytes.
fn all(text: &str, fits: fn(u8) -> bool) -> bool {
    !text.is_empty() && text.bytes().all(fits)
}

const fn visible(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7e)
}

const fn path_byte(byte: u8) -> bool {
    visible(byte) && byte != b'#' && byte != b'?'
}

const fn name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}

/// As TCP has it.
const PORT_MAX: u64 = 65_535;

/// Headers of RFC 9110, section 7.6.1, and those that frame a message.
const HOP_BY_HOP: [&str; 11] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// What the filter sets on its calls; a second value would make the call ambiguous.
const FORBIDDEN_IN_CALLS: &[&str] = &["content-type", "x-quota-*", "x-request-id"];
/// What the filter sets on its denials.
const FORBIDDEN_IN_DENIALS: &[&str] = &[
    "access-control-*",
    "content-type",
    "grpc-*",
    "ratelimit",
    "ratelimit-policy",
    "retry-after",
    "vary",
    "x-ratelimit-*",
];
/// The pseudo-headers of a request.
const PSEUDO_HEADERS: [&str; 4] = [":authority", ":method", ":path", ":scheme"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admits_what_has_the_form() {
        for (form, texts) in [
            (
                Form::Authority,
                vec!["quota.internal", "[::1]:80", "a:8080"],
            ),
            (
                Form::Cluster,
                vec!["outbound|80||quota.ns.svc.cluster.local"],
            ),
            (
                Form::SentHeader,
                vec!["Authorization", "x-api-key", "accept"],
            ),
            (
                Form::Host,
                vec!["a", "API.example.com", "*.example.com", "[::1]"],
            ),
            (Form::Method, vec!["GET", "M-SEARCH"]),
            (
                Form::Origin,
                vec![
                    "*",
                    "https://app.example",
                    "http://a:8080",
                    "http://[::1]:1",
                ],
            ),
            (Form::Path, vec!["/", "/v1/keys.verify", "/-/quota-gate"]),
            (Form::PathAndQuery, vec!["/check?a=b&c=d"]),
            (Form::PolicyName, vec!["gold-1", "A_b", "offline"]),
            (Form::ReadHeader, vec!["x-tenant-id", ":authority", ":path"]),
            (Form::Line, vec!["INC-123: quota böse"]),
            (Form::Secret, vec!["Bearer a.b.c=="]),
        ] {
            for text in texts {
                assert_eq!(form.check(text), Ok(()), "{form:?} {text}");
            }
        }
    }

    #[test]
    fn refuses_what_has_another_form() {
        for (form, texts) in [
            (Form::Authority, vec!["", "a/b", "user@host", "a b"]),
            (Form::Cluster, vec!["", "a b", "ä"]),
            (Form::SentHeader, vec!["", "a b", "a:b", "ä"]),
            (
                Form::Host,
                vec!["*", "*.", "a.b:80", "a..b", "*.*.b", "[::1", "a/b"],
            ),
            (Form::Method, vec!["", "GE T"]),
            (
                Form::Origin,
                vec![
                    "app.example",
                    "https://",
                    "https://a/",
                    "https://a:b",
                    "1://a",
                ],
            ),
            (Form::Path, vec!["", "a", "/a b", "/a?b", "/a#b", "/ä"]),
            (Form::PathAndQuery, vec!["a?b", "/a#b"]),
            (Form::Name, vec!["", "a.b", "a b", "ä"]),
            (Form::ReadHeader, vec!["", ":status", "a b"]),
            (Form::Line, vec!["", "a\nb", "a\u{85}b"]),
            (
                Form::Secret,
                vec!["", "a\r\nb", "a\0", " a", "a ", "ä", "a\tb"],
            ),
            (Form::Time, vec!["tomorrow"]),
        ] {
            for text in texts {
                assert_eq!(form.check(text), Err(Fault::Malformed), "{form:?} {text}");
            }
        }
    }

    #[test]
    fn refuses_headers_that_steer_envoy_or_the_connection() {
        let forbidden = |form: Form, name: &str| {
            assert!(
                matches!(form.check(name), Err(Fault::Forbidden(_))),
                "{name}"
            );
        };
        for form in [Form::SentHeader, Form::DenialHeader, Form::TrustedHeader] {
            for name in [
                ":path",
                "x-envoy-retry-on",
                "X-Envoy-Anything",
                "Connection",
                "te",
                "Host",
                "transfer-encoding",
                "content-length",
                "upgrade",
            ] {
                forbidden(form, name);
            }
        }
        for name in [
            "x-quota-cost",
            "X-Quota-Cost-Min",
            "content-type",
            "x-request-id",
        ] {
            forbidden(Form::SentHeader, name);
        }
        for name in [
            "retry-after",
            "grpc-status",
            "access-control-allow-origin",
            "RateLimit",
        ] {
            forbidden(Form::DenialHeader, name);
        }
        forbidden(Form::PolicyName, "off");
    }

    #[test]
    fn bounds_every_text() {
        assert_eq!(Form::Name.check(&"n".repeat(64)), Ok(()));
        assert_eq!(Form::Name.check(&"n".repeat(65)), Err(Fault::TooLong(64)));
        assert_eq!(
            Form::Secret.check(&"n".repeat(8_193)),
            Err(Fault::TooLong(8_192))
        );
    }
}
