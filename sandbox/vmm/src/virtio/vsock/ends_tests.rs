//! How a connection ends, from each side and in each order.

use std::{
    io::{ErrorKind, Write},
    net::Shutdown,
    os::{fd::AsFd, unix::net::UnixStream},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vmm_sys_util::{epoll::EventSet, eventfd::EventFd};

use super::{
    HANGUP, STREAM, Vsock,
    connection::BUF_ALLOC,
    guest::{CID, GUEST_BUFFER, Guest, PORT, RESET, pattern},
    packet::{Operation, SHUTDOWN_SEND},
};
use crate::rate_limiter::Limits;

/// A guest that is connected, and what its monitor watches.
fn connected() -> (Guest, EventFd) {
    let (host, stream) = UnixStream::pair().unwrap();
    let device = Vsock::new(CID, PORT, stream, Limits::default()).unwrap();
    let hangup = device.hangup().unwrap();
    let mut guest = Guest::with(device, host);
    guest.send(Operation::Request, &[], 0);
    guest.run();
    guest.packets.clear();
    (guest, hangup)
}

/// Tells the device what has become of the stream, as the event loop does, and takes what comes.
fn stream_changed(guest: &mut Guest) {
    let events = {
        let stream = guest.driver.transport.device().sources()[STREAM];
        let flags = PollFlags::IN | PollFlags::OUT | PollFlags::RDHUP;
        let mut watched = [PollFd::from_borrowed_fd(stream, flags)];
        poll(&mut watched, Some(&Timespec::default())).unwrap();
        watched[0].revents().bits()
    };
    guest.driver.transport.source_ready(STREAM, EventSet::from_bits_truncate(events.into()));
    guest.driver.run();
    guest.receive();
}

/// Closing its end would not do: another test may fork just now, and the child holds it open until it ends.
fn host_leaves(guest: &mut Guest) {
    let host = std::mem::replace(&mut guest.host, UnixStream::pair().unwrap().0);
    host.shutdown(Shutdown::Both).unwrap();
}

/// More than the guest has credit for, in parts that the host's socket holds.
fn host_says_more_than_the_guest_can_hold(guest: &mut Guest) -> Vec<u8> {
    let said = pattern(GUEST_BUFFER as usize + 50_000);
    let (first, last) = said.split_at(GUEST_BUFFER as usize - 50_000);
    let mut written = 0;
    while guest.data.len() < first.len() {
        written += guest.host.write(&first[written..]).unwrap_or(0);
        guest.run();
    }
    guest.host.write_all(last).unwrap();
    said
}

#[test]
fn the_host_ends_its_half_and_hears_the_guests() {
    let mut guest = Guest::connected();
    guest.host.write_all(b"last").unwrap();
    guest.host.shutdown(Shutdown::Write).unwrap();
    guest.run();
    assert_eq!(guest.data, b"last");
    assert_eq!(guest.operations(), [(Operation::Shutdown as u16, 2)]);
    guest.send(Operation::ReadWrite, b"answer", 0);
    guest.run();
    assert_eq!(guest.host_reads(), (b"answer".to_vec(), false));
    guest.send(Operation::Shutdown, &[], 3);
    guest.run();
    assert_eq!(guest.operations(), [RESET]);
    assert_eq!(guest.host_reads(), (vec![], true));
}

#[test]
fn the_guest_ends_its_half_and_hears_the_hosts() {
    let mut guest = Guest::connected();
    guest.send(Operation::ReadWrite, b"last", 0);
    guest.send(Operation::Shutdown, &[], 2);
    guest.run();
    assert_eq!(guest.host_reads(), (b"last".to_vec(), true));
    guest.host.write_all(b"answer").unwrap();
    guest.run();
    assert_eq!(guest.data, b"answer");
    guest.send(Operation::Shutdown, &[], 1);
    guest.run();
    assert_eq!(guest.operations(), [RESET]);
    assert_eq!(guest.host.write(b"more").unwrap_err().kind(), ErrorKind::BrokenPipe);
}

#[test]
fn the_end_comes_after_what_the_host_has_not_taken_yet() {
    let mut guest = Guest::connected();
    let frame = pattern(BUF_ALLOC as usize);
    for part in frame.chunks(32768) {
        guest.send(Operation::ReadWrite, part, 0);
    }
    guest.send(Operation::Shutdown, &[], 3);
    guest.run();
    let mut got = Vec::new();
    loop {
        let (bytes, end) = guest.host_reads();
        got.extend(bytes);
        if end {
            break;
        }
        assert_eq!(guest.operations(), [], "not before it is all passed on");
        guest.run();
    }
    assert!(got == frame);
    assert_eq!(guest.operations(), [RESET]);
}

#[test]
fn a_host_that_goes_is_told_to_the_guest_and_to_the_monitor() {
    let (mut guest, hangup) = connected();
    assert!(hangup.read().is_err());
    host_leaves(&mut guest);
    stream_changed(&mut guest);
    assert_eq!(hangup.read().unwrap(), 1);
    assert_eq!(guest.operations().last(), Some(&(Operation::Shutdown as u16, 3)));
    guest.send(Operation::ReadWrite, b"too late", 0);
    guest.send(Operation::Reset, &[], 0);
    guest.run();
    assert_eq!(guest.operations(), []);
}

#[test]
fn what_the_host_says_last_reaches_a_guest_that_is_done_sending() {
    let (mut guest, hangup) = connected();
    guest.send(Operation::Shutdown, &[], SHUTDOWN_SEND);
    guest.run();
    let said = host_says_more_than_the_guest_can_hold(&mut guest);
    guest.host.shutdown(Shutdown::Write).unwrap();
    stream_changed(&mut guest);
    assert_eq!(guest.data.len(), GUEST_BUFFER as usize, "as much as it has credit for");
    assert_eq!(guest.operations(), [], "not before it has the rest");
    guest.update_credit();
    guest.run();
    assert!(guest.data == said);
    assert_eq!(guest.operations(), [(Operation::Shutdown as u16, SHUTDOWN_SEND)]);
    guest.send(Operation::Shutdown, &[], 3);
    guest.run();
    assert_eq!(guest.operations(), [RESET]);
    assert!(hangup.read().is_err(), "it is the guest that has ended it");
}

#[test]
fn what_the_host_says_before_it_goes_reaches_the_guest_before_the_monitor_hears_of_it() {
    let (mut guest, hangup) = connected();
    let said = host_says_more_than_the_guest_can_hold(&mut guest);
    host_leaves(&mut guest);
    stream_changed(&mut guest);
    assert!(hangup.read().is_err(), "not before the guest has it all");
    guest.update_credit();
    guest.run();
    assert!(guest.data == said);
    assert_eq!(hangup.read().unwrap(), 1);
    assert_eq!(guest.operations().last(), Some(&(Operation::Shutdown as u16, 3)));
}

#[test]
fn a_guest_that_does_not_take_what_the_host_said_last_is_not_waited_for_long() {
    let (mut guest, hangup) = connected();
    host_says_more_than_the_guest_can_hold(&mut guest);
    host_leaves(&mut guest);
    stream_changed(&mut guest);
    assert!(hangup.read().is_err());
    let timer = guest.driver.transport.device().sources()[HANGUP].try_clone_to_owned().unwrap();
    let mut watched = [PollFd::from_borrowed_fd(timer.as_fd(), PollFlags::IN)];
    poll(&mut watched, None).unwrap();
    guest.driver.transport.source_ready(HANGUP, EventSet::IN);
    assert_eq!(hangup.read().unwrap(), 1);
}

#[test]
fn a_host_that_goes_before_the_guest_connects_is_not_waited_with() {
    let (mut host, stream) = UnixStream::pair().unwrap();
    let device = Vsock::new(CID, PORT, stream, Limits::default()).unwrap();
    let hangup = device.hangup().unwrap();
    host.write_all(b"start").unwrap();
    let mut guest = Guest::with(device, host);
    host_leaves(&mut guest);
    stream_changed(&mut guest);
    assert_eq!(hangup.read().unwrap(), 1);
}

#[test]
fn what_the_guest_said_reaches_a_host_that_is_done_sending() {
    let (mut guest, hangup) = connected();
    let frame = pattern(BUF_ALLOC as usize);
    for part in frame.chunks(32768) {
        guest.send(Operation::ReadWrite, part, 0);
    }
    guest.send(Operation::Shutdown, &[], SHUTDOWN_SEND);
    guest.run();
    guest.host.shutdown(Shutdown::Write).unwrap();
    let mut got = Vec::new();
    loop {
        stream_changed(&mut guest);
        let (bytes, end) = guest.host_reads();
        got.extend(bytes);
        if end {
            break;
        }
    }
    assert!(got == frame);
    assert!(hangup.read().is_err());
}
