//! The server of the demo: a child of this process.

use std::{
    fs::{self, File},
    io::ErrorKind,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::{command::env, config::Config, config::Layers, data_dir::DataDir};

/// How long a server may take to be ready.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How often it is looked at whether a server that is not ready yet has ended.
const LOOK: Duration = Duration::from_millis(200);
/// Lines of its log that are shown when something failed.
const LAST_LINES: usize = 20;

/// A running server; killed when dropped.
pub(super) struct Server {
    child: Child,
    data: DataDir,
    log: PathBuf,
    endpoint: String,
}

impl Server {
    /// Starts this executable's `serve` on a data directory below `scratch`, and waits until it says that it is ready.
    pub(super) fn start(scratch: &Path, runtimes: &Path) -> anyhow::Result<Self> {
        let data = DataDir::at(&scratch.join("data"));
        let (log, notify) = (scratch.join("server.log"), scratch.join("notify"));
        let ready = UnixDatagram::bind(&notify)?;
        ready.set_read_timeout(Some(LOOK))?;
        let child = Command::new(std::env::current_exe()?)
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(data.path())
            .arg("--runtimes-dir")
            .arg(runtimes)
            .env("NOTIFY_SOCKET", &notify)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()
            .context("cannot start the server")?;
        let mut server = Self { child, data, log, endpoint: String::new() };
        server.wait_until_ready(&ready)?;
        server.endpoint = server.data.read_endpoint().context("the server published no endpoint")?;
        Ok(server)
    }

    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// What points an AWS client here.
    pub(super) fn client_variables(&self) -> anyhow::Result<Vec<(&'static str, String)>> {
        let config = Config::read(&Layers::load(None)?)?;
        Ok(env::variables(&self.data, &config)?.into())
    }

    /// Stops it as a service manager would; a server that does not end well has failed.
    pub(super) fn stop(mut self) -> anyhow::Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::TERM).context("cannot stop the server")?;
        let status = self.child.wait()?;
        ensure!(status.success(), "the server ended with {status}\n{}", self.last_words());
        Ok(())
    }

    /// The end of its log.
    pub(super) fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
    }

    fn wait_until_ready(&mut self, ready: &UnixDatagram) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        let mut message = [0; 64];
        loop {
            match ready.recv(&mut message) {
                Ok(length) if message[..length].starts_with(b"READY=1") => return Ok(()),
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => return Err(error).context("cannot hear from the server"),
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("the server ended before it was ready ({status}): {}", self.last_words());
            }
            ensure!(Instant::now() < deadline, "the server was not ready within {START_TIMEOUT:?}");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // After `stop` both say that there is no such process any more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
