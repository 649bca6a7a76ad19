//! The module: read and compiled once, then made into as many VMs as there are workers.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use wasmi::{CompilationMode, Config, Engine, Linker};

use crate::imports;
use crate::vm::VmState;

/// A compiled module, linked to the pretend host's functions.
pub struct Module {
    pub(crate) engine: Engine,
    pub(crate) module: wasmi::Module,
    pub(crate) linker: Linker<VmState>,
}

impl Module {
    /// Reads a `.wasm` file.
    ///
    /// # Errors
    /// It can't be read, it is no valid module, or it does not speak the ABI version 0.2.1.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = fs::read(path).with_context(|| format!("{} can't be read", path.display()))?;
        Self::new(&bytes).with_context(|| format!("{} can't be used", path.display()))
    }

    /// Reads the module that the variable `QUOTA_GATE_WASM` names.
    ///
    /// # Errors
    /// The variable is not set, or as [`Self::load`]. The text says which command sets it.
    pub fn from_env(command: &str) -> Result<Self> {
        let Some(path) = std::env::var_os("QUOTA_GATE_WASM") else {
            bail!("QUOTA_GATE_WASM does not name the module: run `{command}`");
        };
        Self::load(Path::new(&path))
    }

    /// Takes a module from memory.
    ///
    /// # Errors
    /// It is no valid module, or it does not speak the ABI version 0.2.1.
    pub fn new(bytes: &[u8]) -> Result<Self> {
        let mut config = Config::default();
        // Translating a function on its first call would cost that call fuel.
        config
            .consume_fuel(true)
            .compilation_mode(CompilationMode::Eager);
        let engine = Engine::new(&config);
        let module = wasmi::Module::new(&engine, bytes)?;
        if module.get_export("proxy_abi_version_0_2_1").is_none() {
            bail!("it does not export proxy_abi_version_0_2_1");
        }
        let mut linker = Linker::new(&engine);
        imports::link(&mut linker)?;
        Ok(Self {
            engine,
            module,
            linker,
        })
    }
}
