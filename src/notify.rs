//! Tells the service manager where the server stands (`sd_notify(3)`): one datagram to `NOTIFY_SOCKET`.

use std::{
    ffi::OsString,
    io,
    os::{
        linux::net::SocketAddrExt as _, unix::ffi::OsStrExt as _, unix::net::SocketAddr,
        unix::net::UnixDatagram,
    },
};

/// A state the service manager knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Ready,
    Stopping,
}

/// Sends `state` to the service manager that started this process; does nothing where none did.
pub(crate) fn notify(state: State) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    if let Err(error) = send(&socket, state) {
        tracing::warn!(%error, ?state, "cannot tell the service manager");
    }
}

fn send(socket: &OsString, state: State) -> io::Result<()> {
    // A leading `@` stands for the abstract name space.
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    let text: &[u8] = match state {
        State::Ready => b"READY=1",
        State::Stopping => b"STOPPING=1",
    };
    UnixDatagram::unbound()?.send_to_addr(text, &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_arrives_at_a_path_and_at_an_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = format!("waterwheel-notify-test-{}", std::process::id());
        let at_path = UnixDatagram::bind(&path).unwrap();
        let abstract_address = SocketAddr::from_abstract_name(&name).unwrap();
        let at_name = UnixDatagram::bind_addr(&abstract_address).unwrap();

        send(&path.into_os_string(), State::Ready).unwrap();
        send(&format!("@{name}").into(), State::Stopping).unwrap();

        let mut buffer = [0; 32];
        let length = at_path.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"READY=1");
        let length = at_name.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"STOPPING=1");
    }
}
