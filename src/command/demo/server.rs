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

use crate::{
    cli::{Global, LogFormat},
    command::env,
    config::Config,
    data_dir::DataDir,
};

/// How long a server may take to be ready.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How often it is looked at whether a server that is not ready yet has ended.
const LOOK: Duration = Duration::from_millis(200);
/// Lines of its log that are shown when something failed.
const LAST_LINES: usize = 20;

/// How many times as short as on AWS the demo waits between tries.
pub(super) const SPEED_UP: u32 = 60;

/// A server, killed when dropped.
pub(super) struct Server {
    launch: Launch,
    child: Child,
    endpoint: String,
}

/// How it is started, each time.
struct Launch {
    data: DataDir,
    config: PathBuf,
    runtimes: PathBuf,
    log: PathBuf,
    notify: PathBuf,
}

impl Server {
    /// Starts this executable's `serve` on a data directory below `scratch`, and waits until it says that it is ready.
    pub(super) fn start(scratch: &Path, runtimes: &Path) -> anyhow::Result<Self> {
        let launch = Launch {
            data: DataDir::at(&scratch.join("data")),
            config: scratch.join("waterwheel.toml"),
            runtimes: runtimes.to_owned(),
            log: scratch.join("server.log"),
            notify: scratch.join("notify"),
        };
        fs::write(&launch.config, configuration())?;
        let child = launch.start("127.0.0.1:0")?;
        let mut server = Self { launch, child, endpoint: String::new() };
        server.endpoint = server.launch.data.read_endpoint().context("the server published no endpoint")?;
        Ok(server)
    }

    /// Kills it as nothing else does: nothing of it gets the chance to finish anything.
    pub(super) fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().context("cannot kill the server")?;
        self.child.wait()?;
        Ok(())
    }

    /// Starts it anew on the same data directory and at the same address.
    pub(super) fn start_again(&mut self) -> anyhow::Result<()> {
        let address =
            self.endpoint.strip_prefix("http://").context("the server has no plain HTTP address")?;
        self.child = self.launch.start(address)?;
        Ok(())
    }

    /// The options that point the commands of this program here.
    pub(super) fn global(&self) -> Global {
        Global {
            config: Some(self.launch.config.clone()),
            data_dir: self.launch.data.path().to_owned(),
            log_format: LogFormat::Text,
            verbose: 0,
        }
    }

    /// The same for a shell.
    pub(super) fn operator_variables(&self) -> [(&'static str, &Path); 2] {
        [("WATERWHEEL_DATA_DIR", self.launch.data.path()), ("WATERWHEEL_CONFIG", &self.launch.config)]
    }

    /// The file of `arn:aws:file:::<name>`.
    pub(super) fn destination(&self, name: &str) -> PathBuf {
        self.launch.data.destinations().join(name)
    }

    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// What points an AWS client here.
    pub(super) fn client_variables(&self) -> anyhow::Result<Vec<(&'static str, String)>> {
        let config = Config::read(&self.global().layers()?)?;
        Ok(env::variables(&self.launch.data, &config)?.into())
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
        self.launch.last_words()
    }
}

impl Launch {
    fn start(&self, address: &str) -> anyhow::Result<Child> {
        // A socket that an earlier server has told something is of no more use.
        match fs::remove_file(&self.notify) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let ready = UnixDatagram::bind(&self.notify)?;
        ready.set_read_timeout(Some(LOOK))?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(["serve", "--listen", address, "--data-dir"])
            .arg(self.data.path())
            .arg("--config")
            .arg(&self.config)
            .arg("--runtimes-dir")
            .arg(&self.runtimes)
            .env("NOTIFY_SOCKET", &self.notify)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::options().create(true).append(true).open(&self.log)?)
            .spawn()
            .context("cannot start the server")?;
        let waited = self.wait_until_ready(&mut child, &ready);
        if waited.is_err() {
            // Nobody else knows of it.
            let _ = child.kill();
            let _ = child.wait();
        }
        waited.map(|()| child)
    }

    fn wait_until_ready(&self, child: &mut Child, ready: &UnixDatagram) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        let mut message = [0; 64];
        loop {
            match ready.recv(&mut message) {
                Ok(length) if message[..length].starts_with(b"READY=1") => return Ok(()),
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => return Err(error).context("cannot hear from the server"),
            }
            if let Some(status) = child.try_wait()? {
                bail!("the server ended before it was ready ({status}): {}", self.last_words());
            }
            ensure!(Instant::now() < deadline, "the server was not ready within {START_TIMEOUT:?}");
        }
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
    }
}

/// Retries that take seconds, not minutes; destinations that anybody can read, as a judge from outside does.
fn configuration() -> String {
    format!("[async]\ntest_speed_up = {SPEED_UP}\n[destinations]\nsealed_files = false\n")
}

impl Drop for Server {
    fn drop(&mut self) {
        // After `stop` and `kill` both say that there is no such process any more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
