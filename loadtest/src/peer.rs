//! A peer's server: a child of this program on loopback, in a directory of its own, which ends with whoever holds it.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

/// Until it takes connections.
const START: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub struct Server {
    child: Child,
    pub address: SocketAddr,
    /// Removed after the child has ended, which `drop` sees to.
    _directory: TempDir,
}

impl Server {
    /// Starts `program` with the arguments that `arguments` makes of a directory and a free address.
    pub fn start(
        program: &Path,
        data: &Path,
        arguments: impl FnOnce(&Path, SocketAddr) -> Result<Vec<String>>,
    ) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("peer-").tempdir_in(data)?;
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let log = directory.path().join("log");
        let output = std::fs::File::create(&log)?;
        // Should this program be killed, the kernel ends the server.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .args(arguments(directory.path(), address)?)
            .stdin(Stdio::null())
            .stderr(output.try_clone()?)
            .stdout(output)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let mut server = Self { child, address, _directory: directory };
        server.wait_until_it_listens(&log)?;
        Ok(server)
    }

    fn wait_until_it_listens(&mut self, log: &Path) -> Result<()> {
        let begin = Instant::now();
        while TcpStream::connect(self.address).is_err() {
            if let Some(status) = self.child.try_wait()? {
                bail!("a peer ended, {status}: {}", std::fs::read_to_string(log).unwrap_or_default());
            }
            ensure!(begin.elapsed() < START, "a peer does not listen after {START:?}");
            // Nothing tells when somebody else begins to listen.
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It ends whether it has ended already or not, and nothing of it is kept.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A peer that can be started, and what it calls itself; or why it cannot.
#[derive(Debug, Clone)]
pub struct Program {
    pub path: PathBuf,
    pub name: String,
}

impl Program {
    /// Asks a program for its version; `name` makes a name of the answer.
    pub fn find(path: &Path, name: impl FnOnce(&str) -> Option<String>) -> Result<Self, String> {
        let output = match Command::new(path).arg("--version").output() {
            Ok(output) => output,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(format!("there is no {}: scripts/setup peers installs it", path.display()));
            }
            Err(error) => return Err(format!("{} cannot be started: {error}", path.display())),
        };
        let text = String::from_utf8_lossy(&output.stdout);
        let name = name(text.trim()).ok_or_else(|| format!("{}: its version is {text}", path.display()))?;
        Ok(Self { path: path.to_owned(), name })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn python(data: &Path, script: &str) -> Result<Server> {
        Server::start(Path::new("python3"), data, |_, address| {
            Ok(vec!["-c".to_owned(), script.to_owned(), address.port().to_string()])
        })
    }

    #[test]
    fn a_server_and_its_directory_are_gone_with_whoever_holds_it() {
        let data = tempfile::tempdir().unwrap();
        let script = "import socket, sys, time\ns = socket.create_server(('127.0.0.1', int(sys.argv[1])))\ntime.sleep(60)";
        let server = python(data.path(), script).unwrap();
        let address = server.address;
        assert!(TcpStream::connect(address).is_ok());
        drop(server);
        assert!(TcpStream::connect(address).is_err());
        assert_eq!(std::fs::read_dir(data.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_server_that_ends_says_why() {
        let data = tempfile::tempdir().unwrap();
        let error = python(data.path(), "raise SystemExit('no such cipher')").unwrap_err();
        assert!(error.to_string().contains("no such cipher"), "{error}");
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let reason = Program::find(Path::new("/nowhere/peer"), |text| Some(text.to_owned())).unwrap_err();
        assert!(reason.contains("/nowhere/peer"), "{reason}");
    }
}
