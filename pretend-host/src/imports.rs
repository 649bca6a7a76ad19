//! The functions that the module may call, as Envoy offers them under `env`.

use anyhow::Result;
use wasmi::{Caller, Error, Linker};

use crate::call::{Call, CallReply, End, Ending};
use crate::headers::Headers;
use crate::process::{Event, Level, MetricKind};
use crate::property;
use crate::status::Status;
use crate::stream::LocalReply;
use crate::vm::{Deferred, VmState};

type Host<'a> = Caller<'a, VmState>;
type Outcome = Result<u32, Error>;

/// Makes every function known under its name.
pub(crate) fn link(linker: &mut Linker<VmState>) -> Result<()> {
    linker
        .func_wrap("env", "proxy_log", log)?
        .func_wrap("env", "proxy_get_current_time_nanoseconds", time)?
        .func_wrap("env", "proxy_set_tick_period_milliseconds", set_tick_period)?
        .func_wrap("env", "proxy_get_property", get_property)?
        .func_wrap("env", "proxy_set_property", set_property)?
        .func_wrap("env", "proxy_get_header_map_value", get_header)?
        .func_wrap("env", "proxy_get_header_map_pairs", get_headers)?
        .func_wrap("env", "proxy_replace_header_map_value", replace_header)?
        .func_wrap("env", "proxy_add_header_map_value", add_header)?
        .func_wrap("env", "proxy_remove_header_map_value", remove_header)?
        .func_wrap("env", "proxy_get_buffer_bytes", get_buffer)?
        .func_wrap("env", "proxy_get_shared_data", get_shared)?
        .func_wrap("env", "proxy_set_shared_data", set_shared)?
        .func_wrap("env", "proxy_continue_stream", continue_stream)?
        .func_wrap("env", "proxy_send_local_response", send_local_response)?
        .func_wrap("env", "proxy_http_call", http_call)?
        .func_wrap("env", "proxy_set_effective_context", set_effective_context)?
        .func_wrap("env", "proxy_define_metric", define_metric)?
        .func_wrap("env", "proxy_increment_metric", increment_metric)?
        .func_wrap("env", "proxy_record_metric", record_metric)?;
    Ok(())
}

/// A stretch of the module's memory.
#[derive(Clone, Copy)]
struct Span(u32, u32);

fn log(mut host: Host<'_>, level: u32, text: u32, size: u32) -> Outcome {
    run(&mut host, "proxy_log", |host| {
        let text = String::from_utf8_lossy(&read(host, Span(text, size))?).into_owned();
        let level = Level::of(level).ok_or(Status::BadArgument)?;
        let worker = host.data().worker;
        let mut process = host.data().process();
        let at = process.now;
        process.log.push(crate::LogLine {
            at,
            worker,
            level,
            text,
        });
        Ok(())
    })
}

fn time(mut host: Host<'_>, result: u32) -> Outcome {
    run(&mut host, "proxy_get_current_time_nanoseconds", |host| {
        let wall = host.data().process().wall();
        write(host, result, &wall.to_le_bytes())
    })
}

fn set_tick_period(mut host: Host<'_>, millis: u32) -> Outcome {
    run(&mut host, "proxy_set_tick_period_milliseconds", |host| {
        let state = host.data_mut();
        let (worker, context) = (state.worker, state.acting_root());
        let root = state.roots.get_mut(&context).ok_or(Status::BadArgument)?;
        root.tick = u64::from(millis) * crate::MILLISECOND;
        root.timer += 1;
        let (delay, timer) = (root.tick, root.timer);
        if delay > 0 {
            let tick = Event::Tick {
                worker,
                root: context,
                timer,
            };
            state.process().after(delay, tick);
        }
        Ok(())
    })
}

fn get_property(mut host: Host<'_>, path: u32, size: u32, value: u32, length: u32) -> Outcome {
    run(&mut host, "proxy_get_property", |host| {
        let path = read(host, Span(path, size))?;
        let found = match host.data_mut().acting_stream() {
            Some(stream) => property::of_stream(stream, &path),
            None => property::of_plugin(&path),
        }?;
        give(host, &found, value, length)
    })
}

fn set_property(mut host: Host<'_>, path: u32, size: u32, value: u32, length: u32) -> Outcome {
    run(&mut host, "proxy_set_property", |host| {
        let name = String::from_utf8_lossy(&read(host, Span(path, size))?).into_owned();
        let value = read(host, Span(value, length))?;
        let stream = host.data_mut().acting_stream().ok_or(Status::NotFound)?;
        stream.filter_state.insert(name, value);
        Ok(())
    })
}

fn get_header(
    mut host: Host<'_>,
    map: u32,
    name: u32,
    size: u32,
    value: u32,
    length: u32,
) -> Outcome {
    run(&mut host, "proxy_get_header_map_value", |host| {
        let name = read_text(host, Span(name, size))?;
        let headers = headers(host.data_mut(), map)?;
        let found = headers.first(&name).ok_or(Status::NotFound)?.to_vec();
        give(host, &found, value, length)
    })
}

fn get_headers(mut host: Host<'_>, map: u32, value: u32, length: u32) -> Outcome {
    run(&mut host, "proxy_get_header_map_pairs", |host| {
        let headers = headers(host.data_mut(), map)?;
        let pairs = if headers.is_empty() {
            Vec::new()
        } else {
            headers.to_pairs()
        };
        give(host, &pairs, value, length)
    })
}

fn replace_header(
    mut host: Host<'_>,
    map: u32,
    name: u32,
    size: u32,
    value: u32,
    length: u32,
) -> Outcome {
    run(&mut host, "proxy_replace_header_map_value", |host| {
        let (name, value) = (
            read_text(host, Span(name, size))?,
            read(host, Span(value, length))?,
        );
        judge_header(host.data(), &name, &value);
        headers(host.data_mut(), map)?.set(&name, value);
        Ok(())
    })
}

fn add_header(
    mut host: Host<'_>,
    map: u32,
    name: u32,
    size: u32,
    value: u32,
    length: u32,
) -> Outcome {
    run(&mut host, "proxy_add_header_map_value", |host| {
        let (name, value) = (
            read_text(host, Span(name, size))?,
            read(host, Span(value, length))?,
        );
        judge_header(host.data(), &name, &value);
        headers(host.data_mut(), map)?.add(&name, value);
        Ok(())
    })
}

fn remove_header(mut host: Host<'_>, map: u32, name: u32, size: u32) -> Outcome {
    run(&mut host, "proxy_remove_header_map_value", |host| {
        let name = read_text(host, Span(name, size))?;
        headers(host.data_mut(), map)?.remove(&name);
        Ok(())
    })
}

fn get_buffer(
    mut host: Host<'_>,
    buffer: u32,
    start: u32,
    max: u32,
    value: u32,
    length: u32,
) -> Outcome {
    run(&mut host, "proxy_get_buffer_bytes", |host| {
        let state = host.data();
        let bytes = match buffer {
            CALL_REPLY_BODY => state.reply.as_ref().map(|reply| reply.body.as_slice()),
            CONFIGURATION => state.configuration.as_deref(),
            _ => None,
        }
        .ok_or(Status::NotFound)?;
        let start = usize::try_from(start).unwrap_or(usize::MAX);
        let end = start.saturating_add(usize::try_from(max).unwrap_or(usize::MAX));
        let part = bytes
            .get(start..end.min(bytes.len()))
            .unwrap_or(&[])
            .to_vec();
        // With nothing to give, the host says Ok and leaves the results as they are.
        if part.is_empty() {
            Ok(())
        } else {
            give(host, &part, value, length)
        }
    })
}

fn get_shared(
    mut host: Host<'_>,
    key: u32,
    size: u32,
    value: u32,
    length: u32,
    version: u32,
) -> Outcome {
    run(&mut host, "proxy_get_shared_data", |host| {
        let key = read(host, Span(key, size))?;
        let found = {
            let mut process = host.data().process();
            let found = process.shared.get(&key).cloned();
            let races = process.races_per_mille;
            if races > 0 && process.random.per_mille(races) {
                process.shared.touch(&key);
            }
            found
        };
        let (bytes, number) = found.ok_or(Status::NotFound)?;
        give(host, &bytes, value, length)?;
        write(host, version, &number.to_le_bytes())
    })
}

fn set_shared(
    mut host: Host<'_>,
    key: u32,
    size: u32,
    value: u32,
    length: u32,
    version: u32,
) -> Outcome {
    run(&mut host, "proxy_set_shared_data", |host| {
        let (key, value) = (
            read(host, Span(key, size))?,
            read(host, Span(value, length))?,
        );
        match host.data().process().shared.set(&key, &value, version) {
            Status::Ok => Ok(()),
            status => Err(status.into()),
        }
    })
}

fn continue_stream(mut host: Host<'_>, direction: u32) -> Outcome {
    run(&mut host, "proxy_continue_stream", |host| {
        if direction != 0 {
            return Err(Status::BadArgument.into());
        }
        let context = host.data().acting();
        let Some(stream) = host.data_mut().acting_stream() else {
            host.data().complain("continues what is no stream");
            return Err(Status::BadArgument.into());
        };
        stream.headers_visible = false;
        host.data_mut().deferred.push(Deferred::Resume(context));
        Ok(())
    })
}

#[expect(clippy::too_many_arguments, reason = "the ABI has them")]
fn send_local_response(
    mut host: Host<'_>,
    status: u32,
    details: u32,
    details_size: u32,
    body: u32,
    body_size: u32,
    headers: u32,
    headers_size: u32,
    grpc_status: i32,
) -> Outcome {
    run(&mut host, "proxy_send_local_response", |host| {
        let details = read_text(host, Span(details, details_size))?;
        let body = read(host, Span(body, body_size))?;
        let headers = read_headers(host, Span(headers, headers_size))?;
        for (name, value) in headers.iter() {
            judge_header(host.data(), name, value);
        }
        if !(200..600).contains(&status) {
            host.data()
                .complain("answers with a status that closes the connection");
        }
        let details = details.replace(char::is_whitespace, "_");
        let reply = LocalReply {
            status,
            details,
            headers,
            body,
            grpc_status,
        };
        let context = host.data().acting();
        if host.data_mut().acting_stream().is_none() {
            host.data().complain("answers what is no stream");
        } else {
            host.data_mut()
                .deferred
                .push(Deferred::Answer(context, reply));
        }
        Ok(())
    })
}

#[expect(clippy::too_many_arguments, reason = "the ABI has them")]
fn http_call(
    mut host: Host<'_>,
    cluster: u32,
    cluster_size: u32,
    headers: u32,
    headers_size: u32,
    body: u32,
    body_size: u32,
    trailers: u32,
    trailers_size: u32,
    timeout_ms: u32,
    token: u32,
) -> Outcome {
    run(&mut host, "proxy_http_call", |host| {
        let cluster = read_text(host, Span(cluster, cluster_size))?;
        let headers = read_headers(host, Span(headers, headers_size))?;
        let body = read(host, Span(body, body_size))?;
        let _trailers = read_headers(host, Span(trailers, trailers_size))?;
        let now = host.data().process().now;
        let worker = host.data().worker;
        let call = Call {
            now,
            worker,
            cluster,
            headers,
            body,
            timeout_ms,
        };
        judge_call(host.data(), &call);
        let given = start_call(host.data_mut(), &call)?;
        write(host, token, &given.to_le_bytes())
    })
}

/// Asks the backend how a callout is going to end, and notes when to tell of it.
fn start_call(state: &mut VmState, call: &Call) -> Result<u32, Failed> {
    for needed in [":method", ":path", ":authority"] {
        call.headers.first(needed).ok_or(Status::BadArgument)?;
    }
    if i32::try_from(call.timeout_ms).is_err() {
        return Err(Status::BadArgument.into());
    }
    let root = state.acting_root();
    let worker = state.worker;
    let timeout = match u64::from(call.timeout_ms) * crate::MILLISECOND {
        0 => u64::MAX,
        timeout => timeout,
    };
    let token = state.last_token + 1;
    {
        let mut process = state.process();
        let Ending {
            after,
            end,
            again_after,
        } = process.backend.call(call);
        let in_time = after <= timeout;
        let after = after.min(timeout);
        let reply = match end {
            End::UnknownCluster => return Err(Status::BadArgument.into()),
            End::Refused => return Err(Status::InternalFailure.into()),
            End::Lost => None,
            End::Silence => Some((timeout, CallReply::host(504))),
            _ if !in_time => Some((timeout, CallReply::host(504))),
            End::Broken => Some((after, CallReply::broken())),
            End::Host(status) => Some((after, CallReply::host(status))),
            End::Reply {
                status,
                headers,
                body,
            } => Some((after, CallReply::backend(after, status, &headers, body))),
        };
        if let Some((after, reply)) = reply
            && after < u64::MAX
        {
            let last = again_after.is_none();
            if let Some(again) = again_after {
                let reply = reply.clone();
                let event = Event::Reply {
                    worker,
                    token,
                    reply,
                    last: true,
                };
                process.after(after.saturating_add(again), event);
            }
            process.after(
                after,
                Event::Reply {
                    worker,
                    token,
                    reply,
                    last,
                },
            );
        }
    }
    state.last_token = token;
    state.calls.insert(token, root);
    Ok(token)
}

fn set_effective_context(mut host: Host<'_>, context: u32) -> Outcome {
    run(&mut host, "proxy_set_effective_context", |host| {
        if !host.data().has(context) {
            return Err(Status::BadArgument.into());
        }
        host.data_mut().effective = context;
        Ok(())
    })
}

fn define_metric(mut host: Host<'_>, kind: u32, name: u32, size: u32, result: u32) -> Outcome {
    run(&mut host, "proxy_define_metric", |host| {
        let kind = match kind {
            0 => MetricKind::Counter,
            1 => MetricKind::Gauge,
            2 => MetricKind::Histogram,
            _ => return Err(Status::BadArgument.into()),
        };
        let name = read_text(host, Span(name, size))?;
        host.data().process().metrics.define(kind, &name);
        let state = host.data_mut();
        state.metrics.push((kind, name));
        let number = u32::try_from(state.metrics.len()).unwrap_or(u32::MAX);
        write(host, result, &number.to_le_bytes())
    })
}

fn increment_metric(mut host: Host<'_>, metric: u32, offset: i64) -> Outcome {
    run(&mut host, "proxy_increment_metric", |host| {
        let (kind, name) = metric_of(host.data(), metric)?;
        let mut wrapped = false;
        {
            let metrics = &mut host.data().process().metrics;
            match kind {
                MetricKind::Counter => {
                    let more = u64::try_from(offset).unwrap_or(0);
                    if more == 0 {
                        return Err(Status::BadArgument.into());
                    }
                    *metrics.counters.entry(name.clone()).or_default() += more;
                }
                MetricKind::Gauge => {
                    let gauge = metrics.gauges.entry(name.clone()).or_default();
                    wrapped = gauge.checked_add_signed(offset).is_none();
                    *gauge = gauge.wrapping_add_signed(offset);
                }
                MetricKind::Histogram => return Err(Status::BadArgument.into()),
            }
        }
        if wrapped {
            host.data()
                .complain(&format!("moves the gauge {name} below 0"));
        }
        Ok(())
    })
}

fn record_metric(mut host: Host<'_>, metric: u32, value: u64) -> Outcome {
    run(&mut host, "proxy_record_metric", |host| {
        let (kind, name) = metric_of(host.data(), metric)?;
        let metrics = &mut host.data().process().metrics;
        match kind {
            MetricKind::Counter => *metrics.counters.entry(name).or_default() += value,
            MetricKind::Gauge => drop(metrics.gauges.insert(name, value)),
            MetricKind::Histogram => {
                let (count, sum) = metrics.histograms.entry(name).or_default();
                *count += 1;
                *sum += value;
            }
        }
        Ok(())
    })
}

fn metric_of(state: &VmState, metric: u32) -> Result<(MetricKind, String), Failed> {
    let index = usize::try_from(metric)
        .unwrap_or(usize::MAX)
        .wrapping_sub(1);
    Ok(state.metrics.get(index).cloned().ok_or(Status::NotFound)?)
}

/// The header map that a number stands for, where it is there now.
fn headers(state: &mut VmState, map: u32) -> Result<&mut Headers, Failed> {
    if map == CALL_REPLY_HEADERS {
        let reply = state.reply.as_mut();
        return Ok(reply
            .map(|reply| &mut reply.headers)
            .ok_or(Status::BadArgument)?);
    }
    let stream = state.acting_stream().ok_or(Status::BadArgument)?;
    let found = match map {
        REQUEST_HEADERS if stream.headers_visible => Some(&mut stream.request),
        RESPONSE_HEADERS if stream.response_visible => stream.response.as_mut(),
        _ => None,
    };
    Ok(found.ok_or(Status::BadArgument)?)
}

/// Notes headers that split a response or steer the host.
fn judge_header(state: &VmState, name: &str, value: &[u8]) {
    if value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) || name.contains(['\r', '\n']) {
        state.complain(&format!("header {name} holds a line end"));
    }
}

fn judge_call(state: &VmState, call: &Call) {
    if call.timeout_ms == 0 {
        state.complain("makes a callout without timeout");
    }
    for (name, value) in call.headers.iter() {
        judge_header(state, name, value);
        if name.starts_with("x-envoy-") || name == "host" {
            state.complain(&format!("makes a callout with {name}"));
        }
    }
}

/// Why a host function did not do what it was asked.
enum Failed {
    Status(Status),
    /// The module trapped while it was to give memory.
    Trap(Error),
}

impl From<Status> for Failed {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

fn run(
    host: &mut Host<'_>,
    name: &'static str,
    body: impl FnOnce(&mut Host<'_>) -> Result<(), Failed>,
) -> Outcome {
    let state = host.data_mut();
    state.costs.hostcall(state.callback, name);
    match body(host) {
        Ok(()) => Ok(Status::Ok as u32),
        Err(Failed::Status(status)) => Ok(status as u32),
        Err(Failed::Trap(error)) => Err(error),
    }
}

fn read(host: &Host<'_>, Span(start, size): Span) -> Result<Vec<u8>, Failed> {
    let memory = host.data().memory.ok_or(Status::InvalidMemoryAccess)?;
    let start = usize::try_from(start).unwrap_or(usize::MAX);
    let end = start.saturating_add(usize::try_from(size).unwrap_or(usize::MAX));
    let bytes = memory.data(host).get(start..end);
    Ok(bytes.ok_or(Status::InvalidMemoryAccess)?.to_vec())
}

fn read_text(host: &Host<'_>, span: Span) -> Result<String, Failed> {
    Ok(String::from_utf8_lossy(&read(host, span)?).into_owned())
}

fn read_headers(host: &Host<'_>, span: Span) -> Result<Headers, Failed> {
    let bytes = read(host, span)?;
    Ok(Headers::from_pairs(&bytes).ok_or(Status::BadArgument)?)
}

fn write(host: &mut Host<'_>, at: u32, bytes: &[u8]) -> Result<(), Failed> {
    let memory = host.data().memory.ok_or(Status::InvalidMemoryAccess)?;
    let at = usize::try_from(at).unwrap_or(usize::MAX);
    let written = memory.write(host, at, bytes);
    Ok(written.map_err(|_| Status::InvalidMemoryAccess)?)
}

/// Hands a value over: in memory that the module gives for it, or none at all for an empty one.
fn give(host: &mut Host<'_>, value: &[u8], at: u32, size_at: u32) -> Result<(), Failed> {
    let size = u32::try_from(value.len()).unwrap_or(u32::MAX);
    let mut start = 0;
    if size > 0 {
        let allocate = host.data().allocate.ok_or(Status::InvalidMemoryAccess)?;
        start = allocate.call(&mut *host, size).map_err(Failed::Trap)?;
        write(host, start, value)?;
    }
    write(host, at, &start.to_le_bytes())?;
    write(host, size_at, &size.to_le_bytes())
}

const REQUEST_HEADERS: u32 = 0;
const RESPONSE_HEADERS: u32 = 2;
const CALL_REPLY_HEADERS: u32 = 6;

const CALL_REPLY_BODY: u32 = 4;
const CONFIGURATION: u32 = 7;
