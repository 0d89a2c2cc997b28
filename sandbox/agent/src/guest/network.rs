//! The two ways out of a guest's process: `lo`, and the stream to the host.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::sys::socket::{
    AddressFamily as NixFamily, SockFlag, SockProtocol, SockType, VsockAddr, connect as connect_to,
    socket as new_socket,
};
use protocol::guest::{HOST_CID, PORT};
use rustix::{
    io::Errno,
    net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socket_with},
};

/// Connects to the host's end of the vsock.
pub(super) fn connect() -> io::Result<OwnedFd> {
    let protocol: Option<SockProtocol> = None;
    let stream = new_socket(NixFamily::Vsock, SockType::Stream, SockFlag::SOCK_CLOEXEC, protocol)?;
    connect_to(stream.as_raw_fd(), &VsockAddr::new(HOST_CID, PORT))?;
    Ok(stream)
}

/// struct nlmsghdr  { u32 len; u16 type; u16 flags; u32 seq; u32 pid; }
/// struct ifinfomsg { u8 family; u8 pad; u16 type; i32 index; u32 flags; u32 change; }      (linux/rtnetlink.h)
const MESSAGE: usize = 32;
const RTM_NEWLINK: u16 = 16;
const NLM_F_REQUEST_ACK: u16 = 1 | 4;
/// Always the first interface of a network namespace.
const LOOPBACK_INDEX: u32 = 1;
const IFF_UP: u32 = 1;
/// In the answer, behind its nlmsghdr: i32, 0 or minus an errno.
const ERROR_AT: usize = 16;

/// Sets `IFF_UP` on `lo`, by one rtnetlink message and its acknowledgement.
pub(super) fn loopback_up() -> io::Result<()> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    send(&socket, &up_message(), SendFlags::empty())?;
    let mut answer = [0u8; 128];
    let bytes = rustix::io::read(&socket, &mut answer)?;
    let error = answer.get(..bytes).and_then(|answer| answer.get(ERROR_AT..));
    match error.and_then(|error| error.first_chunk::<4>()).map(|error| i32::from_ne_bytes(*error)) {
        Some(0) => Ok(()),
        Some(error) => Err(io::Error::from_raw_os_error(-error)),
        None => Err(Errno::PROTO.into()),
    }
}

fn up_message() -> Vec<u8> {
    let mut message = Vec::with_capacity(MESSAGE);
    message.extend_from_slice(&u32::try_from(MESSAGE).unwrap_or_default().to_ne_bytes());
    message.extend_from_slice(&RTM_NEWLINK.to_ne_bytes());
    message.extend_from_slice(&NLM_F_REQUEST_ACK.to_ne_bytes());
    message.extend_from_slice(&[0; 12]); // seq, pid, family, pad, type
    for field in [LOOPBACK_INDEX, IFF_UP, IFF_UP] {
        message.extend_from_slice(&field.to_ne_bytes());
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_endian = "little")]
    #[test]
    fn the_message_has_the_kernels_layout() {
        #[rustfmt::skip]
        let golden = [
            32, 0, 0, 0,  16, 0,  5, 0,  0, 0, 0, 0,  0, 0, 0, 0,
            0, 0, 0, 0,  1, 0, 0, 0,  1, 0, 0, 0,  1, 0, 0, 0,
        ];
        assert_eq!(up_message(), golden);
    }
}
