//! Children that die with this process, however it ends.
//!
//! Three nets, each for what the one before cannot catch. The kernel kills a child when the thread that spawned it
//! is gone (`PR_SET_PDEATHSIG`), so all are spawned from one thread that lives as long as the process. A child
//! whose parent was gone before it could ask for that sees another parent id and ends. Workers also read end of
//! file from their stdin, which reaches them through wrappers that drop the signal.
//!
//! The death signal has to be set between fork and exec, or by the child itself. The first needs `unsafe` code that
//! runs in a forked copy of a process with many threads; Python could only do the second after its own start-up. So
//! the child is this same program, which sets it by a safe call and then becomes Python: the signal survives `exec`,
//! and no instruction of Python runs unprotected.

use std::ffi::OsStr;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::sync::mpsc;

use rustix::process::{Pid, Signal};
use tokio::process::{Child, Command};
use tokio::sync::oneshot;

use crate::args::ExecChildArgs;

/// Name of the hidden subcommand.
pub(crate) const EXEC_CHILD: &str = "exec-child";
/// What children must not see: keys that are ours alone.
const PRIVATE_VARIABLES: [&str; 3] = ["API_KEY", "FOREBAY_API_KEY_FILE", "NGROK_AUTHTOKEN"];

struct Order {
    command: Command,
    reply: oneshot::Sender<io::Result<Child>>,
}

/// The one thread that spawns. When the last clone is gone the thread ends, and the kernel kills what it spawned.
#[derive(Clone, Debug)]
pub(crate) struct Spawner {
    orders: mpsc::Sender<Order>,
}

impl Spawner {
    /// Starts the thread. Must be called within the runtime that shall wait for the children.
    pub(crate) fn start() -> io::Result<Self> {
        let (orders, received) = mpsc::channel();
        let runtime = tokio::runtime::Handle::current();
        std::thread::Builder::new().name("spawner".to_owned()).spawn(move || carry_out(&received, &runtime))?;
        Ok(Self { orders })
    }

    /// Spawns a command made by [`child_command`].
    pub(crate) async fn spawn(&self, command: Command) -> io::Result<Child> {
        let (reply, answer) = oneshot::channel();
        let gone = || io::Error::other("the spawning thread is gone");
        self.orders.send(Order { command, reply }).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

fn carry_out(orders: &mpsc::Receiver<Order>, runtime: &tokio::runtime::Handle) {
    let _entered = runtime.enter();
    while let Ok(mut order) = orders.recv() {
        // Whoever asked may have given up; the child then dies with the dropped answer.
        let _ = order.reply.send(order.command.spawn());
    }
}

/// A command that runs `program` in a process group of its own, to die with us.
pub(crate) fn child_command(program: &Path) -> Command {
    let mut command = Command::new(own_program());
    command
        .arg(EXEC_CHILD)
        .args(["--parent", &std::process::id().to_string()])
        .arg("--")
        .arg(program)
        .process_group(0)
        .kill_on_drop(true);
    for variable in PRIVATE_VARIABLES {
        command.env_remove(variable);
    }
    command
}

/// The link works even after an update has replaced the file it was started from.
#[cfg(target_os = "linux")]
fn own_program() -> &'static OsStr {
    OsStr::new("/proc/self/exe")
}

#[cfg(not(target_os = "linux"))]
fn own_program() -> std::ffi::OsString {
    std::env::current_exe().map(std::path::PathBuf::into_os_string).unwrap_or_else(|_| OsStr::new("forebay").to_owned())
}

/// The hidden subcommand: ties this process to its parent and becomes the program. Returns only an error.
pub(crate) fn exec_child(args: &ExecChildArgs) -> String {
    let Some((program, arguments)) = args.command.split_first() else {
        return "no program is named".to_owned();
    };
    if let Err(error) = die_with_parent(args.parent) {
        return format!("cannot be tied to the parent process: {error}");
    }
    let error = std::process::Command::new(program).args(arguments).exec();
    format!("cannot run `{}`: {error}", program.display())
}

fn die_with_parent(parent: i32) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    if rustix::process::getppid().map(Pid::as_raw_pid) == Some(parent) {
        return Ok(());
    }
    Err(io::Error::other(format!("process `{parent}` is gone")))
}

/// Kills a child and what it started; the child must not have been waited for yet, so that its id is still its own.
pub(crate) fn kill_group(child: &Child) {
    if let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
        // An error means that the group is gone already.
        let _ = rustix::process::kill_process_group(pid, Signal::KILL);
    }
}

/// For logs and clients: "exited with code 1", "killed by signal 9".
pub(crate) fn describe_exit(status: io::Result<std::process::ExitStatus>) -> String {
    use std::os::unix::process::ExitStatusExt;
    match status {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("exited with code {code}"),
            (None, Some(signal)) => format!("killed by signal {signal}"),
            (None, None) => "ended for an unknown reason".to_owned(),
        },
        Err(error) => format!("could not be waited for: {error}"),
    }
}
