//! Replies that are well meant and odd, or not well meant: each is read as the page says, or fails.

use super::custom::{custom, read};
use super::*;

/// A language that reads everything in the body.
fn reader() -> Wire {
    custom(
        r#""path": "/", "custom": {
             "allow": {"pointer": "/ok"}, "deny": {"pointer": "/ok", "is": false},
             "granted": {"pointer": "/granted"}, "remaining": {"pointer": "/n"},
             "limit": {"header": "x-n"}, "reset": {"pointer": "/n", "unit": "s"},
             "retry_after": {"header": "x-t", "unit": "s"}}"#,
    )
}

/// What `/n` is, as a count and as a time in milliseconds.
fn number(json: &str) -> (Option<u64>, Option<u128>) {
    let reply = read(
        &reader(),
        200,
        &[],
        &format!(r#"{{"ok": true, "n": {json}}}"#),
    );
    let limits = reply
        .unwrap_or_else(|error| panic!("{json}: {error:?}"))
        .limits;
    (
        limits.remaining,
        limits.reset.map(|reset| reset.as_millis()),
    )
}

#[test]
fn a_number_in_a_body_is_read_as_the_page_says() {
    let digits = format!("\"{}\"", "9".repeat(300));
    let century = Some(3_155_760_000_000);
    for (json, count, millis) in [
        ("7", Some(7), Some(7_000)),
        ("\"7\"", Some(7), Some(7_000)),
        ("\" 7\\n\"", Some(7), Some(7_000)),
        ("7.9", Some(7), Some(7_900)),
        ("\"7.9\"", None, Some(7_900)),
        ("1e3", Some(1_000), Some(1_000_000)),
        ("12E-1", Some(1), Some(1_200)),
        ("1e-300", Some(0), Some(0)),
        ("0", Some(0), Some(0)),
        ("-0", Some(0), Some(0)),
        ("-3", Some(0), Some(0)),
        ("-1e300", Some(0), Some(0)),
        ("\"-3\"", Some(0), Some(0)),
        ("18446744073709551615", Some(u64::MAX), century),
        ("18446744073709551616", Some(u64::MAX), century),
        ("1e300", Some(u64::MAX), century),
        ("1e999", Some(u64::MAX), century),
        (&digits, Some(u64::MAX), century),
        ("\"55s\"", None, Some(55_000)),
        ("\"250ms\"", None, Some(250)),
    ] {
        assert_eq!(number(json), (count, millis), "{json}");
    }
}

#[test]
fn what_only_looks_like_a_number_is_none() {
    for json in [
        "\"1e3\"",
        "\"\"",
        "\" \"",
        "\"+7\"",
        "\"0x10\"",
        "\"1_000\"",
        "\"1,000\"",
        "\"7;w=1\"",
        "\"7 8\"",
        "\"--7\"",
        "\"-\"",
        "\"s\"",
        "\"5 s\"",
        "\"NaN\"",
        "\"Infinity\"",
        "\"七\"",
        "\"٧\"",
        "\"7\\u0000\"",
        "true",
        "null",
        "[7]",
        "{\"7\": 7}",
    ] {
        assert_eq!(number(json), (None, None), "{json}");
    }
}

#[test]
fn what_is_no_json_is_no_decision() {
    let deep = format!("{}1{}", "[".repeat(127), "]".repeat(127));
    let deeper = format!("{}1{}", "[".repeat(128), "]".repeat(128));
    let answer = |n: &str| format!(r#"{{"ok": true, "n": {n}}}"#);
    assert!(read(&reader(), 200, &[], &answer(&deep[1..deep.len() - 1])).is_ok());
    for body in [
        answer("NaN"),
        answer("Infinity"),
        answer("+7"),
        answer("07"),
        answer("7."),
        answer(".7"),
        answer("0x7"),
        answer("'7'"),
        answer("\"\\ud800\""),
        answer("\"a\nb\""),
        answer("7, "),
        answer("7 // seven"),
        answer(&deeper),
        format!("\u{feff}{}", answer("7")),
        format!("{}\0", answer("7")),
        answer("7") + &answer("7"),
        answer("7").replace('"', "'"),
        "[".repeat(60_000),
        "{\"ok\":".repeat(10_000),
        "true".to_owned(),
        "\"ok\"".to_owned(),
    ] {
        let reply = read(&reader(), 200, &[], &body);
        assert_eq!(reply, Err(CheckError::BadReply), "{body:.60}");
    }
    let latin = RawReply {
        status: 200,
        headers: &[],
        body: b"{\"ok\": true, \"n\": \"\xe9\"}",
        now: NOW,
    };
    assert_eq!(reader().decode(&latin), Err(CheckError::BadReply));
}

#[test]
fn space_around_json_and_names_that_come_twice_are_bearable() {
    let seen = |body: &str| read(&reader(), 200, &[], body).map(|reply| reply.outcome);

    assert_eq!(seen("\r\n\t {\"ok\" : true}\n\n"), Ok(GRANTED));
    // The last one counts, as everywhere.
    assert_eq!(
        seen(r#"{"ok": true, "ok": false}"#),
        Ok(ReplyOutcome::Denied)
    );
    assert_eq!(seen(r#"{"ok": false, "ok": true}"#), Ok(GRANTED));
    assert_eq!(seen(r#"{"ok": true, "ok": {}}"#), Err(CheckError::BadReply));
    let escaped = r#"{"\u006fk": true}"#;
    assert_eq!(seen(escaped), Ok(GRANTED));
}

#[test]
fn yes_and_no_are_words_that_everybody_writes_and_no_others() {
    let seen = |ok: &str| {
        let reply = read(&reader(), 200, &[], &format!(r#"{{"ok": {ok}}}"#));
        reply.map(|reply| reply.outcome)
    };

    for yes in ["true", "1", "\"1\"", "\"true\"", "-1", "0.5", "1e9"] {
        assert_eq!(seen(yes), Ok(GRANTED), "{yes}");
    }
    for no in ["false", "0", "-0.0", "0e9", "\"0\"", "\"false\"", "\"\""] {
        assert_eq!(seen(no), Ok(ReplyOutcome::Denied), "{no}");
    }
    for neither in [
        "null",
        "\"yes\"",
        "\"True\"",
        "\" true\"",
        "\"false \"",
        "\"2\"",
        "[]",
        "[true]",
        "{}",
    ] {
        assert_eq!(seen(neither), Err(CheckError::BadReply), "{neither}");
    }
}

#[test]
fn a_grant_that_can_not_be_read_is_no_grant_whatever_it_is() {
    let seen = |granted: &str| {
        let body = format!(r#"{{"ok": true, "granted": {granted}}}"#);
        read(&reader(), 200, &[], &body).map(|reply| reply.outcome)
    };

    let units = |units| Ok(ReplyOutcome::Granted { units: Some(units) });
    assert_eq!(seen("40"), units(40));
    assert_eq!(seen("40.9"), units(40));
    assert_eq!(seen("-40"), units(0));
    assert_eq!(seen("1e300"), units(u64::MAX));
    for unclear in ["\"4e1\"", "\"1,000\"", "true", "null", "[]", "\"\""] {
        assert_eq!(seen(unclear), Err(CheckError::BadReply), "{unclear}");
    }
}

#[test]
fn a_number_in_a_header_is_read_as_the_page_says() {
    let seen = |name: &str, values: &[&str]| {
        let headers: Vec<_> = values.iter().map(|value| (name, *value)).collect();
        let reply = read(&reader(), 429, &headers, "").unwrap();
        let after = reply.retry_after.map(|after| after.as_millis());
        (reply.limits.limit, after)
    };

    for (value, count, millis) in [
        ("7", Some(7), Some(7_000)),
        ("\t 7 ", Some(7), Some(7_000)),
        ("7, 7;w=60", Some(7), None),
        ("7.5", None, Some(7_500)),
        ("-7", Some(0), Some(0)),
        ("1500ms", None, Some(1_500)),
        ("1e3", None, None),
        ("", None, None),
        ("soon", None, None),
        (
            "99999999999999999999999",
            Some(u64::MAX),
            Some(3_155_760_000_000),
        ),
        ("Tue, 14 Nov 2023 22:13:30 GMT", None, Some(10_000)),
    ] {
        assert_eq!(seen("x-n", &[value]).0, count, "{value}");
        assert_eq!(seen("x-t", &[value]).1, millis, "{value}");
    }
    assert_eq!(seen("x-n", &["7", "7"]).0, None);
    assert_eq!(seen("x-t", &["7", "7"]).1, None);
}
