//! Running commands: captured, or in the background with a bound and someone watching.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How often a running command is looked at.
const TICK: Duration = Duration::from_millis(100);

/// How much of a failed command's output an error carries.
const TAIL_LINES: usize = 12;

/// Runs a command to its end and returns its standard output.
///
/// # Errors
/// It can't be started or fails; the error carries the end of its standard error.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let name = name(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("`{name}` can't be started"))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("`{name}` failed ({}):\n{}", output.status, tail(&errors));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command quietly; `watch` sees its last line of output ten times a second.
///
/// # Errors
/// It can't be started, fails or takes longer than `bound` (then it is killed); the error
/// carries the end of its output.
pub(crate) fn watched(
    command: &mut Command,
    bound: Duration,
    mut watch: impl FnMut(&str),
) -> Result<()> {
    let name = name(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("`{name}` can't be started"))?;
    let output = Arc::new(Mutex::new(String::new()));
    let readers = [
        child.stdout.take().map(|pipe| collect(pipe, &output)),
        child.stderr.take().map(|pipe| collect(pipe, &output)),
    ];
    let status = wait(&mut child, bound, || watch(last_line(&text(&output))))?;
    let Some(status) = status else {
        // A grandchild may hold the pipes open: the readers are left to end by themselves.
        bail!("`{name}` took longer than {}", crate::say::seconds(bound));
    };
    for reader in readers.into_iter().flatten() {
        let _ended = reader.join();
    }
    if !status.success() {
        bail!("`{name}` failed ({status}):\n{}", tail(&text(&output)));
    }
    Ok(())
}

fn wait(
    child: &mut Child,
    bound: Duration,
    mut watch: impl FnMut(),
) -> Result<Option<std::process::ExitStatus>> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if started.elapsed() > bound {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        watch();
        thread::sleep(TICK);
    }
}

fn collect(
    mut pipe: impl Read + Send + 'static,
    output: &Arc<Mutex<String>>,
) -> thread::JoinHandle<()> {
    let output = Arc::clone(output);
    thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(read) = pipe.read(&mut bytes) {
            let Some(part) = bytes.get(..read).filter(|part| !part.is_empty()) else {
                break;
            };
            if let Ok(mut output) = output.lock() {
                output.push_str(&String::from_utf8_lossy(part));
            }
        }
    })
}

fn text(output: &Mutex<String>) -> String {
    output.lock().map(|text| text.clone()).unwrap_or_default()
}

fn last_line(text: &str) -> &str {
    text.lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .unwrap_or_default()
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

fn name(command: &Command) -> String {
    let args = command
        .get_args()
        .take(2)
        .map(|arg| arg.to_string_lossy().into_owned());
    let program = std::path::Path::new(command.get_program())
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    std::iter::once(program)
        .chain(args)
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_hangs_is_killed_at_its_bound() {
        let started = Instant::now();
        let result = watched(
            Command::new("sleep").arg("30"),
            Duration::from_millis(300),
            |_| {},
        );
        assert_eq!(
            result.map_err(|error| error.to_string()),
            Err("`sleep 30` took longer than 0.3 s".to_owned())
        );
        assert!(started.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn a_failed_command_tells_the_end_of_what_it_said() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo first; echo the reason >&2; exit 3"]);
        let error = watched(&mut command, Duration::from_secs(10), |_| {}).unwrap_err();
        assert!(error.to_string().contains("the reason"), "{error}");
        assert!(error.to_string().contains("exit status: 3"), "{error}");
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = capture(&mut Command::new("quota-gate-no-such-program")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`quota-gate-no-such-program` can't be started"
        );
    }
}
