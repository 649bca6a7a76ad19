//! Fills in the slots of a request shape.
//!
//! What goes into a slot is encoded for where the slot stands, so a value can't leave its place:
//! percent-encoded in a path and in a header, as JSON text in a body.

use alloc::vec::Vec;

use crate::config::QuotaTerms;
use crate::denial::REQUEST_ID_BYTES_MAX;
use crate::fields;
use crate::language::{Piece, Slot};
use crate::text;
use crate::time::millis;
use crate::wire::Check;

/// Where a template stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Context {
    /// In a header.
    Header,
    /// In a JSON body.
    Json,
    /// In a path, or its query.
    Path,
}

/// Appends the template's text for `check`; `false` where, in a header, a slot has nothing to say,
/// and then what has been appended is worth nothing.
pub(super) fn render(
    out: &mut Vec<u8>,
    pieces: &[Piece],
    context: Context,
    check: &Check<'_>,
    namespace: &str,
) -> bool {
    for piece in pieces {
        match piece {
            Piece::IfFree(raw) if check.cost == 0 => out.extend_from_slice(raw.as_bytes()),
            Piece::IfFree(_) => {}
            Piece::Raw(raw) => out.extend_from_slice(raw.as_bytes()),
            Piece::Slot(slot) => {
                let filled = fill(out, slot, context, check, namespace);
                if !filled && context == Context::Header {
                    return false;
                }
            }
        }
    }
    true
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
            (None, Context::Json | Context::Path) => text::push_decimal(out, check.cost),
            (None, Context::Header) => return false,
        },
        Slot::Descriptor => push_form(out, check),
        Slot::DescriptorMembers => push_members(out, check),
        Slot::DescriptorPairs => push_pairs(out, check),
        Slot::Entry(name) => {
            let mut entries = check.entries.clone();
            let value = entries.find_map(|(own, value)| (own == name).then_some(value));
            push_text(out, context, value.unwrap_or_default());
            return value.is_some();
        }
        Slot::Namespace => push_text(out, context, namespace.as_bytes()),
        Slot::Policy => push_text(out, context, check.policy.as_bytes()),
        Slot::QuotaBurst => return push_quota(out, check, |quota| quota.burst),
        Slot::QuotaMillis => return push_quota(out, check, |quota| millis(quota.per)),
        Slot::QuotaSeconds => {
            return push_quota(out, check, |quota| fields::seconds_up(quota.per));
        }
        Slot::QuotaUnits => return push_quota(out, check, |quota| quota.units),
        Slot::RequestId => {
            let id = text::sanitise(check.request_id.unwrap_or_default(), REQUEST_ID_BYTES_MAX);
            match context {
                Context::Header => out.extend_from_slice(&id),
                Context::Json => text::push_json_ascii(out, &id),
                Context::Path => text::push_percent(out, &id),
            }
            return !id.is_empty();
        }
        Slot::Requests => match (&check.told, context) {
            (Some(told), _) => text::push_decimal(out, u64::from(told.requests)),
            (None, Context::Json | Context::Path) => out.push(b'1'),
            (None, Context::Header) => return false,
        },
        Slot::SettlementId => return push_told(out, context, check.told.map(|told| told.id)),
        Slot::Unchecked => {
            let unchecked = check.told.and_then(|told| told.unchecked);
            return push_told(out, context, unchecked);
        }
        Slot::Units => push_units(out, check, u64::MAX),
        Slot::UnitsInQuota => {
            push_units(
                out,
                check,
                check.quota.map_or(u64::MAX, |quota| quota.units),
            );
        }
        Slot::Route => {
            let route = check.route.unwrap_or_default();
            push_text(out, context, route);
            return !route.is_empty();
        }
    }
    true
}

/// Units with their sign; used ones are `most` at most.
fn push_units(out: &mut Vec<u8>, check: &Check<'_>, most: u64) {
    match check.told.map(|told| told.units) {
        Some(units) if units < 0 => {
            out.push(b'-');
            text::push_decimal(out, units.unsigned_abs());
        }
        Some(units) => text::push_decimal(out, units.unsigned_abs().min(most)),
        None => text::push_decimal(out, check.cost),
    }
}

fn push_told(out: &mut Vec<u8>, context: Context, value: Option<&str>) -> bool {
    push_text(out, context, value.unwrap_or_default().as_bytes());
    value.is_some()
}

fn push_text(out: &mut Vec<u8>, context: Context, value: &[u8]) {
    match context {
        Context::Header | Context::Path => text::push_percent(out, value),
        Context::Json => text::push_json_text(out, value),
    }
}

/// Without a quota, JSON gets a 0, which no backend takes for one.
fn push_quota(out: &mut Vec<u8>, check: &Check<'_>, part: fn(&QuotaTerms) -> u64) -> bool {
    text::push_decimal(out, check.quota.as_ref().map_or(0, part));
    check.quota.is_some()
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
