//! One VM: an instance of the module, and what the host keeps for it.

use std::cell::{RefCell, RefMut};
use std::collections::BTreeMap;
use std::rc::Rc;

use anyhow::Result;
use wasmi::{Instance, Memory, Store, TypedFunc, WasmParams, WasmResults};

use crate::call::CallReply;
use crate::cost::Costs;
use crate::module::Module;
use crate::process::{MetricKind, Process};
use crate::stream::{LocalReply, Stream};

/// What the host keeps for one VM; host functions work on it.
pub(crate) struct VmState {
    pub(crate) worker: usize,
    pub(crate) process: Rc<RefCell<Process>>,
    pub(crate) memory: Option<Memory>,
    pub(crate) allocate: Option<TypedFunc<u32, u32>>,
    pub(crate) roots: BTreeMap<u32, Root>,
    pub(crate) streams: BTreeMap<u32, Stream>,
    /// Callouts in flight, by token: the root that made them.
    pub(crate) calls: BTreeMap<u32, u32>,
    pub(crate) last_token: u32,
    pub(crate) metrics: Vec<(MetricKind, String)>,
    /// The callback that runs.
    pub(crate) callback: &'static str,
    pub(crate) current: u32,
    pub(crate) effective: u32,
    /// Readable while `proxy_on_vm_start` and `proxy_on_configure` run.
    pub(crate) configuration: Option<Rc<[u8]>>,
    /// Readable while `proxy_on_http_call_response` runs.
    pub(crate) reply: Option<CallReply>,
    /// What the host does once the callback is over, in this order.
    pub(crate) deferred: Vec<Deferred>,
    pub(crate) costs: Costs,
}

/// A root context: one plugin configuration at work.
#[derive(Debug)]
pub(crate) struct Root {
    pub(crate) config: Rc<[u8]>,
    pub(crate) streams: usize,
    /// A newer one has taken its place; it goes when its streams have gone.
    pub(crate) replaced: bool,
    /// Nanoseconds between ticks; 0 is none.
    pub(crate) tick: u64,
    /// Which setting of the timer is in force.
    pub(crate) timer: u64,
}

/// Something asked for within a callback, and done behind it.
#[derive(Debug)]
pub(crate) enum Deferred {
    Answer(u32, LocalReply),
    Resume(u32),
}

impl VmState {
    pub(crate) fn process(&self) -> RefMut<'_, Process> {
        self.process.borrow_mut()
    }

    /// The context that host functions act on.
    pub(crate) fn acting(&self) -> u32 {
        if self.effective != 0 && self.has(self.effective) {
            self.effective
        } else {
            self.current
        }
    }

    pub(crate) fn has(&self, context: u32) -> bool {
        self.roots.contains_key(&context) || self.streams.contains_key(&context)
    }

    pub(crate) fn acting_stream(&mut self) -> Option<&mut Stream> {
        self.streams.get_mut(&self.acting())
    }

    /// The root of the context that host functions act on: callouts and timers belong to it.
    pub(crate) fn acting_root(&self) -> u32 {
        let context = self.acting();
        self.streams
            .get(&context)
            .map_or(context, |stream| stream.root)
    }

    pub(crate) fn complain(&self, what: &str) {
        let context = self.acting();
        let worker = self.worker;
        self.process()
            .complain(format!("worker {worker}, context {context}: {what}"));
    }
}

/// One VM.
pub(crate) struct Vm {
    store: Store<VmState>,
    exports: Exports,
    /// It has trapped, and is not called again.
    pub(crate) failed: bool,
    /// The root of new streams; 0 while there is none.
    pub(crate) root: u32,
    last_context: u32,
}

type OnContext = Option<TypedFunc<u32, ()>>;
type OnReply = Option<TypedFunc<(u32, u32, u32, u32, u32), ()>>;
type OnStream = Option<TypedFunc<(u32, u32, u32), u32>>;

/// The callbacks that the module exports; the others are not called.
struct Exports {
    context_create: Option<TypedFunc<(u32, u32), ()>>,
    vm_start: Option<TypedFunc<(u32, u32), u32>>,
    configure: Option<TypedFunc<(u32, u32), u32>>,
    tick: OnContext,
    request_headers: OnStream,
    request_body: OnStream,
    request_trailers: Option<TypedFunc<(u32, u32), u32>>,
    response_headers: OnStream,
    http_call_response: OnReply,
    log: OnContext,
    done: Option<TypedFunc<u32, u32>>,
    delete: OnContext,
}

impl Exports {
    fn of(instance: Instance, store: &Store<VmState>) -> Self {
        Self {
            context_create: find(instance, store, "proxy_on_context_create"),
            vm_start: find(instance, store, "proxy_on_vm_start"),
            configure: find(instance, store, "proxy_on_configure"),
            tick: find(instance, store, "proxy_on_tick"),
            request_headers: find(instance, store, "proxy_on_request_headers"),
            request_body: find(instance, store, "proxy_on_request_body"),
            request_trailers: find(instance, store, "proxy_on_request_trailers"),
            response_headers: find(instance, store, "proxy_on_response_headers"),
            http_call_response: find(instance, store, "proxy_on_http_call_response"),
            log: find(instance, store, "proxy_on_log"),
            done: find(instance, store, "proxy_on_done"),
            delete: find(instance, store, "proxy_on_delete"),
        }
    }
}

fn find<P: WasmParams, R: WasmResults>(
    instance: Instance,
    store: &Store<VmState>,
    name: &str,
) -> Option<TypedFunc<P, R>> {
    instance.get_typed_func(store, name).ok()
}

/// The three values of a callback about headers or a body: context, size, end of stream.
pub(crate) type OnStreamArguments = (u32, u32, u32);

impl Vm {
    pub(crate) fn new(
        module: &Module,
        worker: usize,
        process: Rc<RefCell<Process>>,
    ) -> Result<Self> {
        let state = VmState {
            worker,
            process,
            memory: None,
            allocate: None,
            roots: BTreeMap::new(),
            streams: BTreeMap::new(),
            calls: BTreeMap::new(),
            last_token: 0,
            metrics: Vec::new(),
            callback: "",
            current: 0,
            effective: 0,
            configuration: None,
            reply: None,
            deferred: Vec::new(),
            costs: Costs::default(),
        };
        let mut store = Store::new(&module.engine, state);
        store.set_fuel(FUEL_MAX)?;
        let instance = module
            .linker
            .instantiate_and_start(&mut store, &module.module)?;
        let memory = instance.get_memory(&store, "memory");
        let allocate = find(instance, &store, "proxy_on_memory_allocate");
        store.data_mut().memory = memory;
        store.data_mut().allocate = allocate;
        let exports = Exports::of(instance, &store);
        Ok(Self {
            store,
            exports,
            failed: false,
            root: 0,
            last_context: 0,
        })
    }

    pub(crate) fn state(&self) -> &VmState {
        self.store.data()
    }

    pub(crate) fn state_mut(&mut self) -> &mut VmState {
        self.store.data_mut()
    }

    /// Bytes of linear memory; it never shrinks.
    pub(crate) fn memory(&self) -> usize {
        let memory = self.state().memory;
        memory.map_or(0, |memory| memory.data_size(&self.store))
    }

    pub(crate) const fn new_context(&mut self) -> u32 {
        self.last_context += 1;
        self.last_context
    }

    /// Makes a root for a configuration and has it configured; `None` when the module refuses.
    pub(crate) fn configure(&mut self, config: &Rc<[u8]>) -> Option<u32> {
        let context = self.new_context();
        let root = Root {
            config: config.clone(),
            streams: 0,
            replaced: false,
            tick: 0,
            timer: 0,
        };
        self.state_mut().roots.insert(context, root);
        self.context_create(context, 0);
        let size = u32::try_from(config.len()).unwrap_or(u32::MAX);
        let func = self.exports.vm_start;
        let started = self.call("proxy_on_vm_start", context, func, (context, 0));
        self.state_mut().configuration = Some(config.clone());
        let func = self.exports.configure;
        let taken = self.call("proxy_on_configure", context, func, (context, size));
        self.state_mut().configuration = None;
        (started.unwrap_or(1) != 0 && taken.unwrap_or(1) != 0 && !self.failed).then_some(context)
    }

    pub(crate) fn context_create(&mut self, context: u32, root: u32) {
        let func = self.exports.context_create;
        self.call("proxy_on_context_create", context, func, (context, root));
    }

    pub(crate) fn tick(&mut self, root: u32) {
        let func = self.exports.tick;
        self.call("proxy_on_tick", root, func, root);
    }

    pub(crate) fn request_headers(&mut self, arguments: OnStreamArguments) -> Option<u32> {
        let func = self.exports.request_headers;
        self.call("proxy_on_request_headers", arguments.0, func, arguments)
    }

    pub(crate) fn request_body(&mut self, arguments: OnStreamArguments) -> Option<u32> {
        let func = self.exports.request_body;
        self.call("proxy_on_request_body", arguments.0, func, arguments)
    }

    pub(crate) fn request_trailers(&mut self, context: u32) -> Option<u32> {
        let func = self.exports.request_trailers;
        self.call("proxy_on_request_trailers", context, func, (context, 1))
    }

    pub(crate) fn response_headers(&mut self, arguments: OnStreamArguments) {
        let func = self.exports.response_headers;
        self.call("proxy_on_response_headers", arguments.0, func, arguments);
    }

    pub(crate) fn http_call_response(&mut self, root: u32, token: u32, reply: CallReply) {
        let size = |size: usize| u32::try_from(size).unwrap_or(u32::MAX);
        let (headers, body) = (size(reply.headers.len()), size(reply.body.len()));
        self.state_mut().reply = Some(reply);
        let func = self.exports.http_call_response;
        let arguments = (root, token, headers, body, 0);
        self.call("proxy_on_http_call_response", root, func, arguments);
        self.state_mut().reply = None;
    }

    /// Tells a stream that it is over and may be logged.
    pub(crate) fn log(&mut self, context: u32) {
        let func = self.exports.log;
        self.call("proxy_on_log", context, func, context);
    }

    /// Tells a context that it is over, and that it is forgotten.
    pub(crate) fn finish(&mut self, context: u32) {
        let func = self.exports.done;
        self.call("proxy_on_done", context, func, context);
        let func = self.exports.delete;
        self.call("proxy_on_delete", context, func, context);
    }

    /// Runs a callback; `None` where the module has none, it traps, or it has trapped before.
    fn call<P: WasmParams, R: WasmResults>(
        &mut self,
        name: &'static str,
        context: u32,
        func: Option<TypedFunc<P, R>>,
        arguments: P,
    ) -> Option<R> {
        let func = func.filter(|_| !self.failed)?;
        let state = self.store.data_mut();
        state.callback = name;
        state.current = context;
        state.effective = 0;
        // Setting fuel fails only where the engine does not count any.
        let _counted = self.store.set_fuel(FUEL_MAX);
        let result = func.call(&mut self.store, arguments);
        let used = FUEL_MAX - self.store.get_fuel().unwrap_or(FUEL_MAX);
        let state = self.store.data_mut();
        state.costs.callback(name, used);
        state.current = 0;
        state.effective = 0;
        match result {
            Ok(result) => Some(result),
            Err(error) => {
                self.failed = true;
                state.deferred.clear();
                let text = format!("worker {}, {name}({context}): {error}", state.worker);
                state.process().traps.push(text);
                None
            }
        }
    }
}

/// A callback that needs more hangs its worker for tenths of a second: that counts as a trap.
const FUEL_MAX: u64 = 100_000_000;
