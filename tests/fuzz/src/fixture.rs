//! A configuration with every language and every source of entries: each policy asks the backend
//! of its own name, at the path of that name.

use std::cell::OnceCell;

use quota_gate::config::Config;
use quota_gate::config::parse::parse;
use quota_gate::wire::Wire;

/// The configuration; it is parsed once.
#[must_use]
pub fn config() -> Config {
    thread_local! {
        static CONFIG: OnceCell<Config> = const { OnceCell::new() };
    }
    CONFIG.with(|config| config.get_or_init(read).clone())
}

fn read() -> Config {
    match parse(include_bytes!("fixture.json")) {
        Ok(config) => config,
        Err(problems) => panic!("the fixture: {problems}"),
    }
}

/// The wires to the backends, in their order.
#[must_use]
pub fn wires(config: &Config) -> Vec<Wire> {
    config.backends.iter().map(|own| Wire::new(own)).collect()
}
