//! A request shape: constant bytes with typed slots, filled in by one renderer.
//!
//! What goes into a slot is encoded for where the slot stands, so a value can't leave its place:
//! percent-encoded in a header, as JSON text in a body.

use crate::denial::REQUEST_ID_BYTES_MAX;
use crate::text;
use crate::wire::{Check, List, Text};

/// How a check is asked.
#[derive(Clone, Debug)]
pub struct Shape {
    /// The method.
    pub method: Text,
    /// The path, unless the backend has its own.
    pub path: Text,
    /// Headers that differ from check to check.
    pub headers: List<HeaderShape>,
    /// A JSON body; empty for none.
    pub body: List<Piece>,
}

/// A header with slots; it is left out where one of them has nothing to say.
#[derive(Clone, Debug)]
pub struct HeaderShape {
    /// Its lower-case name.
    pub name: Text,
    /// Its value.
    pub value: List<Piece>,
}

/// A piece of a template.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Piece {
    /// These bytes, but only in a check that costs nothing.
    IfFree(Text),
    /// These bytes.
    Raw(Text),
    /// What the check says.
    Slot(Slot),
}

/// What a check can fill in. In JSON, text slots stand between quotes of the template.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Slot {
    /// The units asked for, in decimal.
    Cost,
    /// With a lease, the units needed at least; else nothing in a header, the cost in a body.
    CostMin,
    /// The whole descriptor as one text, form-urlencoded: `tenant=acme&plan=free`.
    Descriptor,
    /// The descriptor as the members of a JSON object: `"tenant":"acme","plan":"free"`.
    DescriptorMembers,
    /// The descriptor as the elements of a JSON list: `{"key":"tenant","value":"acme"},…`.
    DescriptorPairs,
    /// The backend's name space.
    Namespace,
    /// The policy's name.
    Policy,
    /// The request's id, made safe to read rather than encoded: it is compared, not decoded.
    RequestId,
    /// The matched route's name.
    Route,
}

/// Where a template stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Context {
    /// In a header.
    Header,
    /// In a JSON body.
    Json,
}

/// The template's text for `check`; `None` where, in a header, a slot has nothing to say.
pub(super) fn render(
    pieces: &[Piece],
    context: Context,
    check: &Check<'_>,
    namespace: &str,
) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    for piece in pieces {
        match piece {
            Piece::IfFree(raw) if check.cost == 0 => out.extend_from_slice(raw.as_bytes()),
            Piece::IfFree(_) => {}
            Piece::Raw(raw) => out.extend_from_slice(raw.as_bytes()),
            Piece::Slot(slot) => {
                let filled = fill(&mut out, slot, context, check, namespace);
                if !filled && context == Context::Header {
                    return None;
                }
            }
        }
    }
    Some(out)
}

/// Appends what the slot says; `false` where it has nothing to say.
fn fill(
    out: &mut Vec<u8>,
    slot: &Slot,
    context: Context,
    check: &Check<'_>,
    namespace: &str,
) -> bool {
    match slot {
        Slot::Cost => text::push_decimal(out, check.cost),
        Slot::CostMin => match (check.cost_min, context) {
            (Some(units), _) => text::push_decimal(out, units),
            (None, Context::Json) => text::push_decimal(out, check.cost),
            (None, Context::Header) => return false,
        },
        Slot::Descriptor => push_form(out, check),
        Slot::DescriptorMembers => push_members(out, check),
        Slot::DescriptorPairs => push_pairs(out, check),
        Slot::Namespace => push_text(out, context, namespace.as_bytes()),
        Slot::Policy => push_text(out, context, check.policy.as_bytes()),
        Slot::RequestId => {
            let id = text::sanitise(check.request_id.unwrap_or_default(), REQUEST_ID_BYTES_MAX);
            match context {
                Context::Header => out.extend_from_slice(&id),
                Context::Json => text::push_json_ascii(out, &id),
            }
            return !id.is_empty();
        }
        Slot::Route => {
            let route = check.route.unwrap_or_default();
            push_text(out, context, route);
            return !route.is_empty();
        }
    }
    true
}

fn push_text(out: &mut Vec<u8>, context: Context, value: &[u8]) {
    match context {
        Context::Header => text::push_percent(out, value),
        Context::Json => text::push_json_text(out, value),
    }
}

fn push_form(out: &mut Vec<u8>, check: &Check<'_>) {
    for (place, (name, value)) in check.entries.clone().enumerate() {
        if place != 0 {
            out.push(b'&');
        }
        text::push_percent(out, name.as_bytes());
        out.push(b'=');
        text::push_percent(out, value);
    }
}

fn push_members(out: &mut Vec<u8>, check: &Check<'_>) {
    for (place, (name, value)) in check.entries.clone().enumerate() {
        if place != 0 {
            out.push(b',');
        }
        out.push(b'"');
        text::push_json_text(out, name.as_bytes());
        out.extend_from_slice(b"\":\"");
        text::push_json_text(out, value);
        out.push(b'"');
    }
}

fn push_pairs(out: &mut Vec<u8>, check: &Check<'_>) {
    for (place, (name, value)) in check.entries.clone().enumerate() {
        if place != 0 {
            out.push(b',');
        }
        out.extend_from_slice(b"{\"key\":\"");
        text::push_json_text(out, name.as_bytes());
        out.extend_from_slice(b"\",\"value\":\"");
        text::push_json_text(out, value);
        out.extend_from_slice(b"\"}");
    }
}
