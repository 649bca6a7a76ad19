//! What a backend's language is made of: a request shape and reply rules, as data.
//!
//! The presets are constants of these types, and a `custom` backend is one that the configuration
//! built. The engine that applies them is `wire`; nothing here does anything.

use alloc::borrow::Cow;

use crate::config::StatusPattern;

/// A text that is a constant in a preset and owned elsewhere.
pub type Text = Cow<'static, str>;
/// A list that is a constant in a preset and owned elsewhere.
pub type List<T> = Cow<'static, [T]>;
/// A JSON pointer (RFC 6901), taken apart: the members' names and elements' numbers on the way.
pub type Pointer = List<Text>;

/// How one kind of backend is spoken to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Language {
    /// How a check is asked.
    pub request: Shape,
    /// How the reply is read.
    pub reply: Rules,
    /// How it is told what requests really used; `None` where it can't be.
    pub report: Option<Report>,
}

/// How a backend is told what requests really used.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Report {
    /// How it is told.
    pub request: Shape,
    /// Statuses that say that it has been counted.
    pub counted: List<StatusPattern>,
    /// Statuses that leave open whether it has.
    pub unsure: List<StatusPattern>,
    /// The member of the body that, where it is there and not empty, says that it has not.
    pub error: Option<Pointer>,
    /// The most units that one report can tell; more are told in several.
    pub most: Option<u64>,
    /// Whether units that were charged and not used can be told, below 0.
    pub takes_back: bool,
    /// The path of a check that counts nothing and yet says whether its cost is left; without it,
    /// a check of nothing is asked.
    pub peek: Option<Text>,
}

/// How a check is asked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Shape {
    /// The method.
    pub method: Text,
    /// The path, unless the backend has its own.
    pub path: List<Piece>,
    /// Headers that differ from check to check.
    pub headers: List<HeaderShape>,
    /// A JSON body; empty for none.
    pub body: List<Piece>,
}

impl Shape {
    /// Whether a slot has a place anywhere in it.
    #[must_use]
    pub fn holds(&self, slot: &Slot) -> bool {
        let has = |pieces: &[Piece]| {
            let mut pieces = pieces.iter();
            pieces.any(|piece| matches!(piece, Piece::Slot(own) if own == slot))
        };
        let mut headers = self.headers.iter();
        has(&self.path) || has(&self.body) || headers.any(|header| has(&header.value))
    }
}

/// A header with slots; it is left out where one of them has nothing to say.
#[derive(Clone, Debug, Eq, PartialEq)]
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
    /// With a lease, the units needed at least; else nothing in a header, the cost elsewhere.
    CostMin,
    /// The whole descriptor as one text, form-urlencoded: `tenant=acme&plan=free`.
    Descriptor,
    /// The descriptor as the members of a JSON object: `"tenant":"acme","plan":"free"`.
    DescriptorMembers,
    /// The descriptor as the elements of a JSON list: `{"key":"tenant","value":"acme"},…`.
    DescriptorPairs,
    /// The value of the descriptor's entry of that name.
    Entry(Text),
    /// The backend's name space.
    Namespace,
    /// The policy's name.
    Policy,
    /// The units that may be used at once, of the policy's quota.
    QuotaBurst,
    /// The milliseconds in which the units of the policy's quota grow back.
    QuotaMillis,
    /// The seconds in which the units of the policy's quota grow back, rounded up.
    QuotaSeconds,
    /// The units of the policy's quota.
    QuotaUnits,
    /// The request's id, made safe to read rather than encoded: it is compared, not decoded.
    RequestId,
    /// In a report, how many requests it is about; else nothing in a header, 1 elsewhere.
    Requests,
    /// The matched route's name.
    Route,
    /// In a report, what it can be known by when it comes a second time.
    SettlementId,
    /// In a report about requests that were let through without a check, why they were.
    Unchecked,
    /// In a report, the units that were used, below 0 for units to be taken back; else the cost.
    Units,
    /// The same, but never more than the units of the policy's quota.
    UnitsInQuota,
}

/// How replies are read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rules {
    /// Statuses that say yes.
    pub allow: List<StatusPattern>,
    /// Statuses that say no.
    pub deny: List<StatusPattern>,
    /// Statuses that say that the key is not valid.
    pub reject: List<StatusPattern>,
    /// How the body decides, where the status says yes.
    pub body: Option<BodyRules>,
    /// Where numbers are found; of several places for one, the first that has it counts.
    pub readings: List<Reading>,
    /// Where they are found if they are in none of those.
    pub more: &'static [Reading],
}

/// How a JSON body decides: the first that holds of error, reject, deny, allow. If none does, the
/// reply is bad.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BodyRules {
    /// Members that, where they are there and not empty, make the reply a failure.
    pub error: List<Pointer>,
    /// Any of these rejects the key.
    pub reject: List<Test>,
    /// Any of these denies.
    pub deny: List<Test>,
    /// Any of these grants.
    pub allow: List<Test>,
    /// A list of limits of which only the tightest is read, by [`Place::Item`].
    pub each: Option<Pointer>,
}

/// A test on one member of the body.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Test {
    /// Where it is.
    pub pointer: Pointer,
    /// What it must be; a member that is not there is nothing.
    pub want: Want,
}

/// What a member must be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Want {
    /// `false`, `0`, `"false"` or the like.
    Falsy,
    /// One of these texts, or a whole number that is written so.
    OneOf(List<Text>),
    /// `true`, `1`, `"true"` or the like.
    Truthy,
}

/// Where one number is found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Reading {
    /// What it tells.
    pub target: Target,
    /// Where it is.
    pub place: Place,
    /// What it stands for, where it is a time; counts ignore it.
    pub unit: Unit,
    /// For counts, what it is where it is not there (but the list or body is); for backends that
    /// leave zeros out.
    pub missing: Option<u64>,
}

/// What a number tells.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Target {
    /// Units granted.
    Granted,
    /// Units in a window.
    Limit,
    /// Units left.
    Remaining,
    /// Until the window starts anew.
    Reset,
    /// Until the client may come again.
    RetryAfter,
    /// The window's length.
    Window,
}

/// Where a number is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Place {
    /// In the header of that lower-case name, if it is there once.
    Header(Text),
    /// At that pointer in the tightest of [`BodyRules::each`].
    Item(Pointer),
    /// In a parameter (`w`) of a policy in the header of that name: `5, 5;w=60`.
    Parameter(Text, Text),
    /// At that pointer in the body.
    Pointer(Pointer),
}

/// What a number stands for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unit {
    /// Milliseconds since 1970.
    EpochMillis,
    /// Seconds since 1970.
    EpochSeconds,
    /// A length of time in milliseconds.
    Millis,
    /// A length of time in seconds; in a header also an HTTP date.
    Seconds,
    /// Seconds; from a thousand million on, seconds since 1970. Both are seen in
    /// `x-ratelimit-reset`.
    SecondsOrEpoch,
    /// One of `SECOND`, `MINUTE`, `HOUR`, `DAY`, `WEEK`, `MONTH`, `YEAR`: its length.
    Word,
}

// What presets and configurations have in common.

/// Calls of the host carry no request id of their own.
pub const REQUEST_ID: HeaderShape = header("x-request-id", &[Piece::Slot(Slot::RequestId)]);

/// Where numbers are told by those who say nothing else of it.
pub static STANDARD_READINGS: [Reading; 6] = [
    from_header(Target::Granted, "x-quota-granted", Unit::Seconds),
    from_header(Target::RetryAfter, "retry-after", Unit::Seconds),
    from_header(Target::Limit, "x-ratelimit-limit", Unit::Seconds),
    from_header(Target::Remaining, "x-ratelimit-remaining", Unit::Seconds),
    from_header(Target::Reset, "x-ratelimit-reset", Unit::SecondsOrEpoch),
    WINDOW_OF_LIMIT,
];

/// `X-RateLimit-Limit: 5, 5;w=60;name="x"`, as Envoy and Limitador write it.
pub(crate) const WINDOW_OF_LIMIT: Reading = Reading {
    target: Target::Window,
    place: Place::Parameter(text("x-ratelimit-limit"), text("w")),
    unit: Unit::Seconds,
    missing: None,
};

/// A text that is a constant.
pub(crate) const fn text(constant: &'static str) -> Text {
    Cow::Borrowed(constant)
}

/// A header of that name and value.
pub(crate) const fn header(name: &'static str, value: &'static [Piece]) -> HeaderShape {
    HeaderShape {
        name: text(name),
        value: List::Borrowed(value),
    }
}

/// What the header of that name tells.
pub(crate) const fn from_header(target: Target, name: &'static str, unit: Unit) -> Reading {
    Reading {
        target,
        place: Place::Header(text(name)),
        unit,
        missing: None,
    }
}
