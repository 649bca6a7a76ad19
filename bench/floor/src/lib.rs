//! A proxy-wasm filter that makes the host calls of a decision and computes nothing: what the host
//! takes for them, and so what no filter that keeps the same promises can go below.
//!
//! Its plugin configuration names the calls, with a space between them: `route` asks for the
//! route's metadata, `headers` for the request's headers, `time` for the time; `log` tells the
//! access log, `add` or `replace` the upstream; `check` sends that of quota-gate's `headers`
//! preset, for one tenant, and waits for its reply; `settle` looks at the response's headers and
//! the time when the stream is over. In any case it lets every request through, and hears of the
//! response and of the end of the stream. Who has looked at the headers knows that the client has
//! sent none by the name that tells the decision: then it is added, which costs less than to
//! replace it.

#![allow(unsafe_code)]

use std::cell::{Cell, UnsafeCell};
use std::ptr;

mod import {
    #[link(wasm_import_module = "env")]
    unsafe extern "C" {
        pub(super) fn proxy_get_buffer_bytes(
            buffer: u32,
            start: usize,
            max: usize,
            bytes: *mut *mut u8,
            size: *mut usize,
        ) -> u32;
        pub(super) fn proxy_get_current_time_nanoseconds(time: *mut u64) -> u32;
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
        pub(super) fn proxy_continue_stream(stream_type: u32) -> u32;
    }
}

/// The words for the calls: which of them are made is a bit each.
const WORDS: [&[u8]; 8] = [
    b"route", b"headers", b"time", b"log", b"add", b"replace", b"check", b"settle",
];
const ROUTE: u32 = 1;
const HEADERS: u32 = 1 << 1;
const TIME: u32 = 1 << 2;
const LOG: u32 = 1 << 3;
const ADD: u32 = 1 << 4;
const REPLACE: u32 = 1 << 5;
const CHECK: u32 = 1 << 6;
const SETTLE: u32 = 1 << 7;

/// Values that the host returns are written here, each over the one before: none is read later.
struct Scratch(UnsafeCell<[u8; SCRATCH_BYTES]>);

// SAFETY: a module without threads.
unsafe impl Sync for Scratch {}

static SCRATCH: Scratch = Scratch(UnsafeCell::new([0; SCRATCH_BYTES]));

thread_local! {
    static CALLS: Cell<u32> = const { Cell::new(0) };
    /// Which stream waits for which call, by the call's number.
    static WAITING: Cell<[u32; WAITING_MAX]> = const { Cell::new([0; WAITING_MAX]) };
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_memory_allocate(size: usize) -> *mut u8 {
    if size <= SCRATCH_BYTES {
        SCRATCH.0.get().cast()
    } else {
        ptr::null_mut()
    }
}

#[unsafe(no_mangle)]
extern "C" fn proxy_abi_version_0_2_1() {}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_context_create(_context: u32, _root: u32) {}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_vm_start(_root: u32, _size: usize) -> u32 {
    1
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_configure(_root: u32, _size: usize) -> u32 {
    const CONFIGURATION: u32 = 7;
    let size = returned(|value, size| {
        // SAFETY: the host writes the two results.
        unsafe { import::proxy_get_buffer_bytes(CONFIGURATION, 0, SCRATCH_BYTES, value, size) }
    });
    let size = size.min(SCRATCH_BYTES);
    // SAFETY: the host has written so many bytes there, and nobody else writes meanwhile.
    let text = unsafe { std::slice::from_raw_parts(SCRATCH.0.get().cast::<u8>(), size) };
    let mut calls = 0;
    for word in text
        .split(|byte| *byte == b' ')
        .filter(|word| !word.is_empty())
    {
        match WORDS.iter().position(|own| *own == word) {
            Some(place) => calls |= 1 << place,
            None => return 0,
        }
    }
    CALLS.set(calls);
    1
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_headers(context: u32, _count: usize, _end: u32) -> u32 {
    if makes(ROUTE) {
        property(b"xds\0route_metadata");
    }
    if makes(HEADERS) {
        pairs(REQUEST);
    }
    if makes(TIME) {
        time();
    }
    if makes(CHECK) && call(context) {
        const PAUSE: u32 = 1;
        return PAUSE;
    }
    mark(b"allow; reason=leased");
    0
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_http_call_response(
    _root: u32,
    token: u32,
    _headers: u32,
    _body_size: usize,
    _trailers: u32,
) {
    const REPLY: u32 = 6;
    const REQUEST_STREAM: u32 = 0;
    pairs(REPLY);
    time();
    let context = WAITING.get()[token as usize % WAITING_MAX];
    // SAFETY: no memory is involved.
    unsafe {
        import::proxy_set_effective_context(context);
    }
    mark(b"allow; reason=within_quota");
    // SAFETY: no memory is involved.
    unsafe {
        import::proxy_continue_stream(REQUEST_STREAM);
    }
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_response_headers(_context: u32, _headers: u32, _end: u32) -> u32 {
    0
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_log(_context: u32) {
    const RESPONSE: u32 = 2;
    if makes(SETTLE) {
        time();
        pairs(RESPONSE);
    }
}

fn makes(call: u32) -> bool {
    CALLS.get() & call != 0
}

fn returned(call: impl FnOnce(*mut *mut u8, *mut usize) -> u32) -> usize {
    let mut data: *mut u8 = ptr::null_mut();
    let mut size = 0;
    call(&raw mut data, &raw mut size);
    size
}

fn property(path: &[u8]) {
    returned(|value, size| {
        // SAFETY: the host reads the path and writes the two results.
        unsafe { import::proxy_get_property(path.as_ptr(), path.len(), value, size) }
    });
}

fn pairs(map: u32) {
    returned(|value, size| {
        // SAFETY: the host writes the two results.
        unsafe { import::proxy_get_header_map_pairs(map, value, size) }
    });
}

fn time() {
    let mut time = 0;
    // SAFETY: the host writes one u64.
    unsafe {
        import::proxy_get_current_time_nanoseconds(&raw mut time);
    }
}

/// Tells the access log and the upstream.
fn mark(decision: &[u8]) {
    let log = b"allow reason=within_quota policy=measured backend=quota ms=0";
    // SAFETY: the host only reads the bytes, during the calls.
    unsafe {
        if makes(LOG) {
            import::proxy_set_property(
                LOG_STATE.as_ptr(),
                LOG_STATE.len(),
                log.as_ptr(),
                log.len(),
            );
        }
        let (name, value) = (HEADER, decision);
        let set = if makes(ADD) {
            import::proxy_add_header_map_value
        } else if makes(REPLACE) {
            import::proxy_replace_header_map_value
        } else {
            return;
        };
        set(
            REQUEST,
            name.as_ptr(),
            name.len(),
            value.as_ptr(),
            value.len(),
        );
    }
}

/// Asks the backend; `true` when the host has taken the call.
fn call(context: u32) -> bool {
    property(b"xds\0route_name");
    let headers = MESSAGE;
    let no_trailers = [0_u8; 4];
    let mut token = 0_u32;
    // SAFETY: the host only reads the bytes, during the call, and writes the token.
    let status = unsafe {
        import::proxy_http_call(
            CLUSTER.as_ptr(),
            CLUSTER.len(),
            headers.as_ptr(),
            headers.len(),
            ptr::null(),
            0,
            no_trailers.as_ptr(),
            no_trailers.len(),
            TIMEOUT_MS,
            &raw mut token,
        )
    };
    let mut waiting = WAITING.get();
    waiting[token as usize % WAITING_MAX] = context;
    WAITING.set(waiting);
    status == 0
}

const REQUEST: u32 = 0;

/// The names of what quota-gate sets.
const LOG_STATE: &[u8] = b"quota_gate";
const HEADER: &[u8] = b"x-quota-decision";

const CLUSTER: &[u8] = b"quota-backend";
const TIMEOUT_MS: u32 = 500;

/// The check as the `headers` preset sends it, serialized: a count, the sizes, then the bytes.
const MESSAGE: &[u8] = b"\x08\0\0\0\
    \x07\0\0\0\x04\0\0\0\
    \x0a\0\0\0\x0d\0\0\0\
    \x05\0\0\0\x06\0\0\0\
    \x12\0\0\0\x0f\0\0\0\
    \x0c\0\0\0\x01\0\0\0\
    \x0e\0\0\0\x08\0\0\0\
    \x0d\0\0\0\x05\0\0\0\
    \x0c\0\0\0\x24\0\0\0\
    :method\0POST\0\
    :authority\0quota-backend\0\
    :path\0/check\0\
    x-quota-descriptor\0tenant=tenant-7\0\
    x-quota-cost\x001\0\
    x-quota-policy\0measured\0\
    x-quota-route\0items\0\
    x-request-id\08be7e4fe-35fd-4a02-b4ba-6450d33a479a\0";

/// Above every header map and configuration here.
const SCRATCH_BYTES: usize = 4096;

/// More calls than are ever in flight here.
const WAITING_MAX: usize = 64;
