//! The project's commands: set-up, build, test, demo.
fn main() {}
