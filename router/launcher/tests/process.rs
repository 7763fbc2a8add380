//! The binary as a process, with a script in Python's place: exit codes, the port, children that die with it.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "helpers of tests count as tests")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Of patience with a slow machine, not of what may be taken.
const LIMIT: Duration = Duration::from_secs(60);
const TINY_TOKENIZER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../text/tests/fixtures/tiny_tokenizer.json");

/// The binary, with an environment that holds nothing but what a test adds.
fn forebay(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    command.args(words).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
    command
}

fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap()
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What the spare process does in a shell, which can receive no descriptors: refuse, and wait for the end.
const SPARE: &str = "env > $NOTES/spare-env; read order; echo 'failed no room' >&0; echo $$ > $NOTES/spare; read order";

/// A program that stands for Python: `model-info` succeeds, `spare` forks nothing, `serve` does what the test says.
struct FakePython {
    folder: TempDir,
}

impl FakePython {
    /// `serve` is shell code; the run's notes go to files in `$NOTES`.
    fn new(model_info: &str, serve: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let notes = folder.path().display();
        let script = format!(
            "#!/bin/sh\nNOTES={notes}\ncase \"$3\" in\nmodel-info)\n{model_info}\n;;\nserve)\n{serve}\n;;\nspare)\n{SPARE}\n;;\nesac\n"
        );
        let path = folder.path().join("python");
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Self { folder }
    }

    /// Describes a model that has a tokenizer and nothing else.
    fn with_model(serve: &str) -> Self {
        let info = format!(
            r#"echo '{{"model_id":"tiny","path":"/nowhere","text_files":{{"tokenizer_json":"{TINY_TOKENIZER}"}}}}'"#
        );
        Self::new(&info, serve)
    }

    fn path(&self) -> String {
        self.folder.path().join("python").display().to_string()
    }

    /// Waits for a note that the script writes.
    fn note(&self, name: &str) -> String {
        let path = self.folder.path().join(name);
        wait_until(|| fs::read_to_string(&path).is_ok_and(|text| text.ends_with('\n')));
        fs::read_to_string(path).unwrap()
    }
}

fn wait_until(done: impl Fn() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !done() {
        assert!(Instant::now() < deadline, "not within {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A running server; killed when dropped.
struct Running {
    child: Child,
    stderr: BufReader<ChildStderr>,
    port: u16,
}

impl Running {
    fn start(python: &FakePython, words: &[&str]) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (home, python, port_text) = (python.folder.path(), python.path(), port.to_string());
        let mut all = vec!["serve", "--hostname", "127.0.0.1", "--port", &port_text, "--python", &python];
        all.extend(words);
        let mut command = forebay(&all);
        // A run that is killed leaves its folder: let it be in the test's own.
        command.env("API_KEY", "sesame").env("TMPDIR", home).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        Self { child, stderr, port }
    }

    /// Reads the log until a line contains `text`; answers all that was read.
    fn log_until(&mut self, text: &str) -> String {
        let mut log = String::new();
        while !log.contains(text) {
            assert!(self.stderr.read_line(&mut log).unwrap() > 0, "the log ended without `{text}`:\n{log}");
        }
        log
    }

    fn rest_of_log(&mut self) -> String {
        let mut log = String::new();
        self.stderr.read_to_string(&mut log).unwrap();
        log
    }

    fn signal(&self, signal: &str) {
        Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
    }

    fn health(&self) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether a process runs; one that is dead and only waits to be reaped does not.
fn runs(pid: &str) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.trim()).join("stat")).unwrap_or_default();
    stat.rsplit(") ").next().and_then(|rest| rest.chars().next()).is_some_and(|state| state != 'Z' && state != 'X')
}

#[test]
fn the_version_is_printed() {
    let output = run(&mut forebay(&["--version"]));
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), concat!("forebay ", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_flag_that_is_not_built_ends_with_code_2() {
    let output = run(&mut forebay(&["--quantize", "awq"]));
    assert_eq!(output.status.code(), Some(2));
    assert!(errors(&output).contains("`--quantize`"), "{}", errors(&output));
}

#[test]
fn an_environment_variable_counts_as_its_flag() {
    let output = run(forebay(&[]).env("SPECULATE", "3"));
    assert_eq!(output.status.code(), Some(2));
    assert!(errors(&output).contains("`--speculate`"), "{}", errors(&output));
}

#[test]
fn a_port_in_use_ends_before_any_python_and_a_flag_wins_over_its_variable() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let mut command = forebay(&["--port", &port, "--python", "/nowhere/python"]);
    let output = run(command.env("PORT", "1").env("HOSTNAME", "127.0.0.1"));
    assert_eq!(output.status.code(), Some(1));
    assert!(errors(&output).contains(&format!("`127.0.0.1:{port}`")), "{}", errors(&output));
}

#[test]
fn a_container_name_in_hostname_is_no_address_and_does_no_harm() {
    let taken = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let output = run(forebay(&[]).env("PORT", &port).env("HOSTNAME", "4f1c2ab9d0e1"));
    assert!(errors(&output).contains(&format!("`0.0.0.0:{port}`")), "{}", errors(&output));
}

#[test]
fn a_python_that_is_not_there_is_named() {
    let output = run(&mut forebay(&["--port", "0", "--python", "/nowhere/python"]));
    assert_eq!(output.status.code(), Some(1));
    assert!(errors(&output).contains("`/nowhere/python` (absent)"), "{}", errors(&output));
}

#[test]
fn a_model_that_is_refused_ends_with_code_2_and_the_reason() {
    let python = FakePython::new("echo 'error: no such model' >&2; exit 2", "");
    let output = run(&mut forebay(&["serve", "x/y", "--port", "0", "--python", &python.path()]));
    assert_eq!(output.status.code(), Some(2));
    let log = errors(&output);
    assert!(log.contains("`x/y` is refused: error: no such model"), "{log}");
}

#[test]
fn download_prints_what_the_child_prints() {
    let python = FakePython::new("", "");
    let script = python.path();
    fs::write(&script, "#!/bin/sh\necho \"$@\"\n").unwrap();
    let output = run(&mut forebay(&["download", "x/y", "--revision", "r", "--python", &script]));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "-m forebay_worker download --revision r -- x/y\n");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_worker_that_ends_before_it_listens_ends_the_server_with_its_last_words() {
    let python = FakePython::with_model("read line; echo first; echo 'no memory' >&2; exit 3");
    let mut server = Running::start(&python, &[]);
    let log = server.rest_of_log();
    assert_eq!(server.child.wait().unwrap().code(), Some(1));
    assert!(log.contains("exited with code 3"), "{log}");
    assert!(log.contains("no memory"), "{log}");
}

#[test]
fn a_worker_gets_its_configuration_on_stdin_and_no_secret() {
    let serve = "read line; echo \"$line\" > $NOTES/config; env > $NOTES/env; echo >> $NOTES/env; sleep 60";
    let python = FakePython::with_model(serve);
    let _server =
        Running::start(&python, &["--num-threads", "3", "--kv-cache-bytes", "1MiB", "--max-total-tokens", "64"]);
    let config = python.note("config");
    for part in [
        r#""model_path":"/nowhere""#,
        r#""rank":0"#,
        r#""incarnation":1"#,
        r#""kv_cache_bytes":1048576"#,
        r#""num_threads":3"#,
    ] {
        assert!(config.contains(part), "{part} is not in {config}");
    }
    let environment = python.note("env");
    assert!(environment.contains("OMP_NUM_THREADS=3"), "{environment}");
    assert!(!environment.contains("sesame"), "{environment}");
}

#[test]
fn a_worker_starts_by_itself_when_the_spare_process_forks_none() {
    let python = FakePython::with_model("read line; echo \"$line\" > $NOTES/config; exec sleep 60");
    let mut server = Running::start(&python, &[]);
    let log = server.log_until("imports torch for itself");
    assert!(log.contains("no room"), "{log}");
    assert!(python.note("config").contains(r#""incarnation":1"#));
    let environment = python.note("spare-env");
    assert!(!environment.contains("sesame"), "{environment}");
    let spare = python.note("spare");
    server.signal("-KILL");
    wait_until(|| !runs(&spare));
}

#[test]
fn there_is_no_spare_process_when_it_is_disabled() {
    let python = FakePython::with_model("echo $$ > $NOTES/pid; exec sleep 60");
    let _server = Running::start(&python, &["--disable-spare-worker"]);
    python.note("pid");
    assert!(!python.folder.path().join("spare-env").exists());
}

#[test]
fn while_the_model_loads_health_says_503_and_a_signal_ends_everything_well() {
    let python = FakePython::with_model("echo $$ > $NOTES/pid; exec sleep 60");
    let mut server = Running::start(&python, &[]);
    let pid = python.note("pid");
    assert!(server.health().starts_with("HTTP/1.1 503"), "{}", server.health());
    server.signal("-TERM");
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
    wait_until(|| !runs(&pid));
}

#[test]
fn no_worker_survives_a_router_that_is_killed() {
    // It ignores what it can, reads no stdin, and is one of three.
    let python =
        FakePython::with_model("trap '' TERM INT HUP PIPE; echo $$ > $NOTES/pid-$$; while :; do sleep 1; done");
    let server = Running::start(&python, &["--num-shard", "3"]);
    let pids = || -> Vec<String> {
        let names = fs::read_dir(python.folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter_map(|name| name.to_str()?.strip_prefix("pid-").map(str::to_owned)).collect()
    };
    wait_until(|| pids().len() == 3);
    server.signal("-KILL");
    wait_until(|| !pids().iter().any(|pid| runs(pid)));
}

#[test]
fn a_finder_child_dies_with_the_server_too() {
    let python = FakePython::new("echo $$ > $NOTES/pid; exec sleep 60", "");
    let server = Running::start(&python, &[]);
    let pid = python.note("pid");
    server.signal("-KILL");
    wait_until(|| !runs(&pid));
}

#[test]
fn the_runs_folder_is_gone_after_the_end() {
    let python = FakePython::with_model("read line; echo \"$line\" > $NOTES/config; exec sleep 60");
    let mut server = Running::start(&python, &[]);
    let config: serde_json::Value = serde_json::from_str(&python.note("config")).unwrap();
    let folder = PathBuf::from(config["socket_path"].as_str().unwrap()).parent().unwrap().to_owned();
    assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    server.signal("-INT");
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
    assert!(!folder.exists(), "{} is left", folder.display());
}

#[test]
fn a_child_whose_parent_is_gone_does_not_start() {
    let words = ["exec-child", "--parent", "999999999", "--", "echo", "started"];
    let output = run(&mut forebay(&words));
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
}

#[test]
fn logs_are_json_lines_when_asked_for() {
    let python = FakePython::with_model(r#"echo '{"level":"warn","message":"odd \"thing\""}'; exit 1"#);
    let mut server = Running::start(&python, &["--json-output"]);
    let log = server.log_until("odd");
    for line in log.lines() {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"));
        assert!(entry["level"].is_string());
    }
    let last: serde_json::Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    assert_eq!(last["message"], r#"odd "thing""#);
    assert_eq!(last["level"], "WARN");
}

#[test]
fn env_says_what_is_missing_in_the_place_of_the_facts() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_forebay")).args(["env", "--python", "/nowhere/python"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    assert!(text.starts_with(concat!("router: ", env!("CARGO_PKG_VERSION"))), "{text}");
    assert!(text.contains("python: no Python found; tried `/nowhere/python`"), "{text}");
}
