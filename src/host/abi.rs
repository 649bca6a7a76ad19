//! The proxy-wasm ABI, version 0.2.1: every import and every export. Beside that of
//! `heap`, this is the only `unsafe` code.
//!
//! Nothing here can panic, whatever the host answers: a status that is not `Ok` becomes `None`,
//! `false` or an empty value. Only the callbacks that the filter needs are exported, because a
//! proxy calls each one that it finds, on every stream.
//!
//! A value that the host returns lies in memory that it asked for through
//! `proxy_on_memory_allocate`; it is ours from then on, as [`Bytes`]. Most of the time it is one
//! and the same block, for a request needs one value at a time: the allocator is then left out of
//! it.

#![allow(unsafe_code)]

use alloc::vec::Vec;
use core::cell::{Cell, UnsafeCell};
use core::ops::Deref;
use core::ptr;

use super::vm;

/// Which header map a call is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Map {
    /// The downstream request's.
    Request,
    /// The response's, on its way to the client or sent.
    Response,
    /// The response's trailers.
    ResponseTrailers,
    /// The reply's to a callout.
    CallReply,
}

impl Map {
    const fn code(self) -> u32 {
        match self {
            Self::Request => 0,
            Self::Response => 2,
            Self::ResponseTrailers => 3,
            Self::CallReply => 6,
        }
    }
}

/// Which buffer a call is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Buffer {
    /// The body of the reply to a callout.
    CallReply,
    /// The plugin's configuration.
    Configuration,
}

impl Buffer {
    const fn code(self) -> u32 {
        match self {
            Self::CallReply => 4,
            Self::Configuration => 7,
        }
    }
}

/// The kinds of metric.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum MetricKind {
    /// It only grows.
    Counter,
    /// It is set, or moved up and down.
    Gauge,
    /// It collects values.
    Histogram,
}

impl MetricKind {
    const fn code(self) -> u32 {
        match self {
            Self::Counter => 0,
            Self::Gauge => 1,
            Self::Histogram => 2,
        }
    }
}

/// Log levels, as the host numbers them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Level {
    /// State changes.
    Info,
    /// Something an operator should look at.
    Warn,
    /// A bug, or a configuration that is refused.
    Error,
}

impl Level {
    const fn code(self) -> u32 {
        match self {
            Self::Info => 2,
            Self::Warn => 3,
            Self::Error => 4,
        }
    }
}

/// What a module of one thread has as a `static`.
#[derive(Debug)]
pub(super) struct Alone<T>(pub(super) T);

// SAFETY: a module is never entered by two threads: each worker has a copy of its own.
unsafe impl<T> Sync for Alone<T> {}

const OK: u32 = 0;

mod import {
    #[link(wasm_import_module = "env")]
    unsafe extern "C" {
        pub(super) fn proxy_log(level: u32, text: *const u8, size: usize) -> u32;
        pub(super) fn proxy_get_current_time_nanoseconds(time: *mut u64) -> u32;
        pub(super) fn proxy_set_tick_period_milliseconds(period: u32) -> u32;
        pub(super) fn proxy_get_property(
            path: *const u8,
            path_size: usize,
            value: *mut *mut u8,
            size: *mut usize,
        ) -> u32;
        pub(super) fn proxy_set_property(
            path: *const u8,
            path_size: usize,
            value: *const u8,
            size: usize,
        ) -> u32;
        pub(super) fn proxy_get_header_map_value(
            map: u32,
            name: *const u8,
            name_size: usize,
            value: *mut *mut u8,
            size: *mut usize,
        ) -> u32;
        pub(super) fn proxy_get_header_map_pairs(
            map: u32,
            pairs: *mut *mut u8,
            size: *mut usize,
        ) -> u32;
        pub(super) fn proxy_add_header_map_value(
            map: u32,
            name: *const u8,
            name_size: usize,
            value: *const u8,
            size: usize,
        ) -> u32;
        pub(super) fn proxy_replace_header_map_value(
            map: u32,
            name: *const u8,
            name_size: usize,
            value: *const u8,
            size: usize,
        ) -> u32;
        pub(super) fn proxy_get_buffer_bytes(
            buffer: u32,
            start: usize,
            max: usize,
            bytes: *mut *mut u8,
            size: *mut usize,
        ) -> u32;
        pub(super) fn proxy_get_shared_data(
            key: *const u8,
            key_size: usize,
            value: *mut *mut u8,
            size: *mut usize,
            version: *mut u32,
        ) -> u32;
        pub(super) fn proxy_set_shared_data(
            key: *const u8,
            key_size: usize,
            value: *const u8,
            size: usize,
            version: u32,
        ) -> u32;
        pub(super) fn proxy_continue_stream(stream_type: u32) -> u32;
        pub(super) fn proxy_send_local_response(
            status: u32,
            details: *const u8,
            details_size: usize,
            body: *const u8,
            body_size: usize,
            headers: *const u8,
            headers_size: usize,
            grpc_status: i32,
        ) -> u32;
        pub(super) fn proxy_http_call(
            cluster: *const u8,
            cluster_size: usize,
            headers: *const u8,
            headers_size: usize,
            body: *const u8,
            body_size: usize,
            trailers: *const u8,
            trailers_size: usize,
            timeout: u32,
            token: *mut u32,
        ) -> u32;
        pub(super) fn proxy_set_effective_context(context: u32) -> u32;
        pub(super) fn proxy_define_metric(
            kind: u32,
            name: *const u8,
            name_size: usize,
            metric: *mut u32,
        ) -> u32;
        pub(super) fn proxy_increment_metric(metric: u32, offset: i64) -> u32;
        pub(super) fn proxy_record_metric(metric: u32, value: u64) -> u32;
    }
}

/// The block that values are lent from.
static BLOCK: Alone<UnsafeCell<[u8; BLOCK_BYTES]>> = Alone(UnsafeCell::new([0; BLOCK_BYTES]));

/// Whether somebody holds a value in the block.
static LENT: Alone<Cell<bool>> = Alone(Cell::new(false));

fn block() -> *mut u8 {
    BLOCK.0.get().cast()
}

/// A value that the host returned.
#[derive(Debug)]
pub(super) struct Bytes {
    data: *mut u8,
    size: usize,
}

impl Bytes {
    /// No bytes.
    pub(super) const NONE: Self = Self {
        data: ptr::null_mut(),
        size: 0,
    };
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        if self.data.is_null() {
            return &[];
        }
        // SAFETY: the host filled `size` bytes of a block that it got for this value alone, and
        // that is given back when this is dropped.
        unsafe { core::slice::from_raw_parts(self.data, self.size) }
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        if self.data == block() {
            LENT.0.set(false);
        } else if !self.data.is_null() {
            // SAFETY: `proxy_on_memory_allocate` allocated exactly `size` bytes as a `Vec<u8>`.
            drop(unsafe { Vec::from_raw_parts(self.data, self.size, self.size) });
        }
    }
}

/// What a call of the host gave back.
fn returned(call: impl FnOnce(*mut *mut u8, *mut usize) -> u32) -> Option<Bytes> {
    let lent = LENT.0.get();
    let mut bytes = Bytes::NONE;
    let status = call(&raw mut bytes.data, &raw mut bytes.size);
    if status == OK {
        return Some(bytes);
    }
    // What the host took for a value that it did not return after all.
    LENT.0.set(lent);
    core::mem::forget(bytes);
    None
}

/// Writes a line to the host's log.
pub(super) fn log(level: Level, text: &str) {
    // SAFETY: the host only reads the bytes, during the call.
    let _status = unsafe { import::proxy_log(level.code(), text.as_ptr(), text.len()) };
}

/// The wall clock, in nanoseconds since the Unix epoch.
pub(super) fn time() -> u64 {
    let mut time = 0;
    // SAFETY: the host writes one u64.
    let _status = unsafe { import::proxy_get_current_time_nanoseconds(&raw mut time) };
    time
}

/// Asks for a tick every `millis` milliseconds.
pub(super) fn set_tick_period(millis: u32) {
    // SAFETY: no memory is involved.
    let _status = unsafe { import::proxy_set_tick_period_milliseconds(millis) };
}

/// A property by its path, whose elements are separated by NUL.
pub(super) fn property(path: &[u8]) -> Option<Bytes> {
    returned(|value, size| {
        // SAFETY: the host reads the path and writes the two results.
        unsafe { import::proxy_get_property(path.as_ptr(), path.len(), value, size) }
    })
}

/// Sets a property of the stream: filter state under the prefix `wasm.`.
pub(super) fn set_property(path: &[u8], value: &[u8]) {
    // SAFETY: the host only reads both, during the call.
    let _status = unsafe {
        import::proxy_set_property(path.as_ptr(), path.len(), value.as_ptr(), value.len())
    };
}

/// The first value of a header; `None` where there is none.
pub(super) fn header(map: Map, name: &str) -> Option<Bytes> {
    returned(|value, size| {
        // SAFETY: the host reads the name and writes the two results.
        unsafe {
            import::proxy_get_header_map_value(map.code(), name.as_ptr(), name.len(), value, size)
        }
    })
}

/// All headers, serialized as the ABI does; `None` where the map is not there.
pub(super) fn header_pairs(map: Map) -> Option<Bytes> {
    returned(|value, size| {
        // SAFETY: the host writes the two results.
        unsafe { import::proxy_get_header_map_pairs(map.code(), value, size) }
    })
}

/// Adds a header to those of its name; `false` when the host refuses.
pub(super) fn add_header(map: Map, name: &str, value: &[u8]) -> bool {
    // SAFETY: the host only reads both, during the call.
    let status = unsafe {
        import::proxy_add_header_map_value(
            map.code(),
            name.as_ptr(),
            name.len(),
            value.as_ptr(),
            value.len(),
        )
    };
    status == OK
}

/// Sets a header to one value, whatever was there before.
pub(super) fn set_header(map: Map, name: &str, value: &[u8]) {
    // SAFETY: the host only reads both, during the call.
    let _status = unsafe {
        import::proxy_replace_header_map_value(
            map.code(),
            name.as_ptr(),
            name.len(),
            value.as_ptr(),
            value.len(),
        )
    };
}

/// At most `max` bytes from the start of a buffer; empty where there are none.
pub(super) fn buffer(buffer: Buffer, max: usize) -> Bytes {
    returned(|value, size| {
        // SAFETY: the host writes the two results.
        unsafe { import::proxy_get_buffer_bytes(buffer.code(), 0, max, value, size) }
    })
    .unwrap_or(Bytes::NONE)
}

/// A value that the workers share, and its version; empty and 0 where there is none.
pub(super) fn shared_data(key: &str) -> (Bytes, u32) {
    let mut version = 0;
    let value = returned(|value, size| {
        // SAFETY: the host reads the key and writes the three results.
        unsafe {
            import::proxy_get_shared_data(key.as_ptr(), key.len(), value, size, &raw mut version)
        }
    });
    value.map_or((Bytes::NONE, 0), |value| (value, version))
}

/// Writes a shared value if its version is still this one (0 stands for any).
pub(super) fn set_shared_data(key: &str, value: &[u8], version: u32) -> bool {
    // SAFETY: the host only reads key and value, during the call.
    let status = unsafe {
        import::proxy_set_shared_data(
            key.as_ptr(),
            key.len(),
            value.as_ptr(),
            value.len(),
            version,
        )
    };
    status == OK
}

/// Makes later calls act on another stream than the one of the callback.
pub(super) fn set_effective_context(context: u32) -> bool {
    // SAFETY: no memory is involved.
    unsafe { import::proxy_set_effective_context(context) == OK }
}

/// Lets the paused request of the effective context go on.
pub(super) fn continue_request() {
    const REQUEST: u32 = 0;
    // SAFETY: no memory is involved.
    let _status = unsafe { import::proxy_continue_stream(REQUEST) };
}

/// Answers the request of the effective context.
pub(super) fn send_local_response(
    status: u32,
    details: &str,
    headers: &[u8],
    body: &[u8],
    grpc_status: i32,
) {
    // SAFETY: the host only reads the bytes, during the call.
    let _status = unsafe {
        import::proxy_send_local_response(
            status,
            details.as_ptr(),
            details.len(),
            body.as_ptr(),
            body.len(),
            headers.as_ptr(),
            headers.len(),
            grpc_status,
        )
    };
}

/// Starts a callout; `None` when the host refuses. `millis` must not be 0, which means no timeout.
pub(super) fn http_call(cluster: &str, headers: &[u8], body: &[u8], millis: u32) -> Option<u32> {
    let no_trailers = crate::pairs::EMPTY;
    let mut token = 0;
    // SAFETY: the host only reads the bytes, during the call, and writes the token.
    let status = unsafe {
        import::proxy_http_call(
            cluster.as_ptr(),
            cluster.len(),
            headers.as_ptr(),
            headers.len(),
            body.as_ptr(),
            body.len(),
            no_trailers.as_ptr(),
            no_trailers.len(),
            millis,
            &raw mut token,
        )
    };
    (status == OK).then_some(token)
}

/// Defines a metric; `None` when the host refuses. Each call makes a new one: once per VM.
pub(super) fn define_metric(kind: MetricKind, name: &str) -> Option<u32> {
    let mut metric = 0;
    // SAFETY: the host reads the name and writes the number.
    let status = unsafe {
        import::proxy_define_metric(kind.code(), name.as_ptr(), name.len(), &raw mut metric)
    };
    (status == OK).then_some(metric)
}

/// Moves a counter up, or a gauge up or down.
pub(super) fn increment_metric(metric: u32, offset: i64) {
    // SAFETY: no memory is involved.
    let _status = unsafe { import::proxy_increment_metric(metric, offset) };
}

/// Sets a gauge, or adds a value to a histogram.
pub(super) fn record_metric(metric: u32, value: u64) {
    // SAFETY: no memory is involved.
    let _status = unsafe { import::proxy_record_metric(metric, value) };
}

/// The headers of an ordinary request fit in.
const BLOCK_BYTES: usize = 4096;

const CONTINUE: u32 = 0;
const PAUSE: u32 = 1;

const fn action(go_on: bool) -> u32 {
    if go_on { CONTINUE } else { PAUSE }
}

/// Memory for a value that the host is about to return.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_memory_allocate(size: usize) -> *mut u8 {
    if size <= BLOCK_BYTES && !LENT.0.replace(true) {
        return block();
    }
    let mut block = Vec::<u8>::with_capacity(size);
    let start = block.as_mut_ptr();
    core::mem::forget(block);
    start
}

/// Tells the host which version of the ABI this is.
#[unsafe(no_mangle)]
extern "C" fn proxy_abi_version_0_2_1() {}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_context_create(context: u32, root: u32) {
    vm::on_context_create(context, root);
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_vm_start(_root: u32, _size: usize) -> u32 {
    1
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_configure(root: u32, _size: usize) -> u32 {
    u32::from(vm::on_configure(root))
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_tick(root: u32) {
    vm::on_tick(root);
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_headers(stream: u32, _headers: u32, _end: u32) -> u32 {
    action(vm::on_request_headers(stream))
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_body(stream: u32, _size: u32, _end: u32) -> u32 {
    action(vm::may_go_on(stream))
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_trailers(stream: u32, _trailers: u32) -> u32 {
    action(vm::may_go_on(stream))
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_response_headers(stream: u32, _headers: u32, _end: u32) -> u32 {
    vm::on_response_headers(stream);
    CONTINUE
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_http_call_response(
    root: u32,
    token: u32,
    headers: u32,
    _body_size: usize,
    _trailers: u32,
) {
    vm::on_http_call_response(root, token, headers);
}

/// The end of a stream, whoever ended it. `proxy_on_done` and `proxy_on_delete` would tell of it as
/// well, and are not exported: each costs every stream another call into the VM.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_log(stream: u32) {
    vm::on_log(stream);
}
