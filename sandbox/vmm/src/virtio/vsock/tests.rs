//! The device between a driver and a stream.

use std::{
    io::{Read, Write},
    os::{
        fd::{AsRawFd, BorrowedFd},
        unix::net::UnixStream,
    },
    sync::{Arc, Mutex},
    thread,
};

use vmm_sys_util::epoll::EventSet;

use super::{
    Vsock,
    connection::BUF_ALLOC,
    guest::{CID, GUEST_BUFFER, GUEST_PORT, Guest, PORT, RESET, RX, TX, TX_BUFFERS, pattern},
    packet::{HEADER, Header, Operation},
};
use crate::{
    rate_limiter::{Limits, Rate},
    virtio::{EventLoop, Transport, driver::BUFFERS, registers::status},
};

#[test]
fn a_question_and_its_answer_cost_one_interrupt_and_one_doorbell() {
    let mut guest = Guest::connected();
    guest.run();
    guest.driver.interrupts();
    let memory = guest.driver.memory.clone();
    guest.driver.rings[RX].wants_doorbell(&memory);
    for _ in 0..50 {
        guest.host.write_all(&[1; 1024]).unwrap();
        guest.driver.transport.source_ready(0, EventSet::IN);
        assert_eq!(guest.driver.interrupts(), 1, "for the question");
        guest.receive();
        assert_eq!(guest.data.drain(..).len(), 1024);
        assert!(!guest.driver.rings[RX].wants_doorbell(&memory), "nobody waits for buffers");
        guest.taken = guest.taken.wrapping_add(1024);
        guest.send(Operation::ReadWrite, &[2; 1024], 0);
        assert!(!guest.driver.woken());
        assert_eq!(guest.driver.interrupts(), 0, "for the answer's buffer");
        assert_eq!(guest.host_reads().0, [2; 1024]);
    }
}

#[test]
fn frames_of_six_mebibytes_to_the_guest() {
    let mut guest = Guest::connected();
    let frame = pattern(6 << 20);
    let (mut written, mut rounds) = (0, 0);
    while guest.data.len() < frame.len() {
        written += guest.host.write(&frame[written..]).unwrap_or(0);
        guest.run();
        assert!(guest.data.len() as u32 - guest.taken <= GUEST_BUFFER, "more than the guest can hold");
        guest.update_credit();
        rounds += 1;
        assert!(rounds < 1000);
    }
    assert!(guest.data == frame);
}

#[test]
fn frames_of_six_mebibytes_to_the_host() {
    let mut guest = Guest::connected();
    let frame = pattern(6 << 20);
    let (mut got, mut rounds) = (Vec::new(), 0);
    while got.len() < frame.len() {
        let free = BUF_ALLOC - (guest.sent as u32).wrapping_sub(guest.device_fwd_cnt);
        let step = (free as usize).min(65536).min(frame.len() - guest.sent);
        if step > 0 {
            guest.send(Operation::ReadWrite, &frame[guest.sent..guest.sent + step], 0);
            guest.receive();
        } else {
            got.extend(guest.host_reads().0);
            guest.run();
        }
        rounds += 1;
        assert!(rounds < 1000);
    }
    assert!(got == frame);
    assert_eq!(guest.driver.status() & status::NEEDS_RESET, 0);
}

#[test]
fn a_guest_that_gives_no_credit_leaves_the_stream_alone() {
    let mut guest = Guest::connected();
    let frame = pattern(1 << 20);
    let mut written = 0;
    for _ in 0..100 {
        written += guest.host.write(&frame[written..]).unwrap_or(0);
        guest.run();
    }
    assert_eq!(guest.data.len(), GUEST_BUFFER as usize);
    assert!(written < frame.len(), "the host's socket is full");
    guest.update_credit();
    guest.run();
    assert_eq!(guest.data.len(), written.min(2 * GUEST_BUFFER as usize));
    assert!(guest.data == frame[..guest.data.len()]);
}

#[test]
fn a_guest_that_offers_no_buffers_is_asked_for_them_and_then_served() {
    let mut guest = Guest::connected();
    let memory = guest.driver.memory.clone();
    guest.driver.rings[RX].wants_doorbell(&memory);
    // Packets of a byte, until there are no buffers.
    for _ in 0..150 {
        guest.host.write_all(b"x").unwrap();
        guest.driver.transport.source_ready(0, EventSet::IN);
    }
    guest.receive();
    assert_eq!(guest.data.len(), 128);
    assert!(guest.driver.rings[RX].wants_doorbell(&memory), "now somebody waits for them");
    guest.driver.transport.doorbell_rang();
    guest.receive();
    assert_eq!(guest.data.len(), 150);
    assert!(!guest.driver.rings[RX].wants_doorbell(&memory));
}

#[test]
fn a_host_that_does_not_read_holds_up_the_guest_and_nothing_is_lost() {
    let mut guest = Guest::connected();
    let frame = pattern(2 << 20);
    loop {
        let free = BUF_ALLOC - (guest.sent as u32).wrapping_sub(guest.device_fwd_cnt);
        if free == 0 {
            break;
        }
        let step = free.min(65536) as usize;
        guest.send(Operation::ReadWrite, &frame[guest.sent..guest.sent + step], 0);
        guest.receive();
    }
    assert!(guest.sent < 1 << 20, "{} bytes are on their way", guest.sent);
    assert!(guest.driver.transport.device().interest(0).contains(EventSet::OUT));
    let mut got = Vec::new();
    while got.len() < guest.sent {
        got.extend(guest.host_reads().0);
        guest.run();
    }
    assert!(got == frame[..guest.sent]);
    assert!(!guest.driver.transport.device().interest(0).contains(EventSet::OUT));
    let unheard = guest.sent as u32 - guest.device_fwd_cnt;
    assert!(unheard < BUF_ALLOC / 4, "the guest has not heard of {unheard} bytes");
}

#[test]
fn what_the_host_says_before_the_guest_connects_waits() {
    let mut guest = Guest::new();
    guest.host.write_all(b"start").unwrap();
    guest.run();
    assert_eq!(guest.data, b"");
    guest.send(Operation::Request, &[], 0);
    guest.run();
    assert_eq!(guest.data, b"start");
}

#[test]
fn there_is_never_a_second_connection() {
    let mut guest = Guest::connected();
    let mut second = guest.header(Operation::Request, 0, 0);
    second.src_port += 1;
    guest.send_raw(&second, &[]);
    guest.run();
    assert_eq!(guest.packets.pop_front().unwrap().dst_port, GUEST_PORT + 1);
    guest.send(Operation::Reset, &[], 0);
    for port in [GUEST_PORT, GUEST_PORT + 2] {
        let request = Header { src_port: port, ..guest.header(Operation::Request, 0, 0) };
        guest.send_raw(&request, &[]);
    }
    guest.run();
    assert_eq!(guest.operations(), [RESET, RESET]);
    assert!(guest.host_reads().1, "the stream has ended");
}

#[test]
fn a_driver_that_starts_again_has_lost_its_connection() {
    let mut guest = Guest::connected();
    guest.driver.write(0x70, 0);
    assert!(guest.host_reads().1);
    let mut guest = Guest::new();
    guest.driver.write(0x70, 0);
    assert!(!guest.host_reads().1, "but may make its first");
}

/// Lengths of the header, of the chain, and of what may be, all against one another.
#[test]
fn cve_vsock_lengths() {
    for len in [1, 11, 4096, 65536, BUF_ALLOC, BUF_ALLOC + 1, u32::MAX - HEADER as u32, u32::MAX] {
        let mut guest = Guest::connected();
        let header = guest.header(Operation::ReadWrite, len, 0);
        guest.send_raw(&header, if len == 1 { &[] } else { &[7; 10] });
        guest.run();
        assert_eq!(guest.operations(), [RESET], "{len}");
        assert_eq!(guest.host_reads(), (vec![], true), "{len}");
        assert_eq!(guest.driver.status() & status::NEEDS_RESET, 0);
    }
    let mut guest = Guest::connected();
    let header = guest.header(Operation::ReadWrite, 10, 0);
    guest.send_raw(&header, &[7; 4000]);
    guest.run();
    assert_eq!(guest.host_reads(), (vec![7; 10], false), "a buffer may be larger than its packet");
}

#[test]
fn a_packet_without_a_whole_header_stops_the_device() {
    for length in [0, 1, 43] {
        let mut guest = Guest::connected();
        guest.driver.add(TX, &[(TX_BUFFERS, length, false)]);
        guest.driver.run();
        assert_ne!(guest.driver.status() & status::NEEDS_RESET, 0);
    }
}

#[test]
fn a_buffer_without_room_stops_the_device() {
    for length in [1, 43, 44] {
        let mut guest = Guest::connected();
        for _ in 0..128 {
            guest.host.write_all(b"x").unwrap();
            guest.driver.transport.source_ready(0, EventSet::IN);
        }
        guest.driver.add(RX, &[(BUFFERS, length, true)]);
        guest.driver.run();
        guest.host.write_all(b"x").unwrap();
        guest.driver.transport.source_ready(0, EventSet::IN);
        assert_ne!(guest.driver.status() & status::NEEDS_RESET, 0, "{length}");
    }
}

#[test]
fn a_flood_of_strangers_waits_for_buffers_to_be_answered_in() {
    let mut guest = Guest::connected();
    let stranger = Header { dst_port: 9, ..guest.header(Operation::Request, 0, 0) };
    for _ in 0..128 {
        guest.driver.put(TX_BUFFERS, &stranger.encode());
        guest.driver.add(TX, &[(TX_BUFFERS, HEADER as u32, false)]);
    }
    // The guest takes no answers: no more than the buffers and some are taken from it.
    guest.driver.run();
    guest.driver.used(TX);
    for _ in 0..100 {
        guest.driver.put(TX_BUFFERS, &stranger.encode());
        guest.driver.add(TX, &[(TX_BUFFERS, HEADER as u32, false)]);
        guest.driver.run();
    }
    let unanswered = guest.driver.used(TX).len();
    assert!(unanswered < 100, "{unanswered}");
    for _ in 0..10 {
        guest.receive();
        guest.driver.run();
    }
    assert_eq!(guest.operations().len(), 228);
}

#[test]
fn saved_and_restored_a_connection_goes_on() {
    let mut guest = Guest::connected();
    let frame = pattern(BUF_ALLOC as usize);
    for part in frame.chunks(32768) {
        guest.send(Operation::ReadWrite, part, 0);
    }
    guest.run();
    // The device's end of the stream, as the process that restores would have it.
    let stream = {
        let descriptor = guest.driver.transport.device().sources()[0].try_clone_to_owned().unwrap();
        UnixStream::from(descriptor)
    };
    let state = guest.driver.transport.save();
    let state = serde_json::from_str(&serde_json::to_string(&state).unwrap()).unwrap();
    let device = Vsock::new(CID, PORT, stream, Limits::default()).unwrap();
    let mut transport = Transport::new(guest.driver.memory.clone(), Box::new(device)).unwrap();
    transport.restore(&state).unwrap();
    guest.driver.transport = transport;
    let mut got = Vec::new();
    while got.len() < frame.len() {
        got.extend(guest.host_reads().0);
        guest.run();
    }
    assert!(got == frame);
    guest.host.write_all(b"still here").unwrap();
    guest.run();
    assert_eq!(guest.data, b"still here");
}

/// All together: the thread, its epoll, and a guest, a writer and a reader at their own pace.
#[test]
fn six_mebibytes_there_and_back_through_the_thread() {
    let mut guest = Guest::connected();
    let unused = Transport::new(
        guest.driver.memory.clone(),
        Box::new(crate::virtio::Rng::new(Limits::default()).unwrap()),
    );
    let transport = Arc::new(Mutex::new(std::mem::replace(&mut guest.driver.transport, unused.unwrap())));
    let devices = EventLoop::start(
        vec![Arc::clone(&transport)],
        crate::virtio::driver::Unwired::boxed(),
        || true,
        |text| panic!("{text}"),
    )
    .unwrap();
    let interrupt = {
        let transport = transport.lock().unwrap();
        guest.thread = Some([RX, TX].map(|queue| transport.doorbells()[queue].try_clone().unwrap()));
        // SAFETY: the eventfd is open for as long as the transport lives.
        let interrupt = unsafe { BorrowedFd::borrow_raw(transport.interrupt().as_raw_fd()) };
        rustix::io::ioctl_fionbio(interrupt, false).unwrap();
        transport.interrupt().try_clone().unwrap()
    };
    guest.host.set_nonblocking(false).unwrap();
    let (mut writer, mut reader) = (guest.host.try_clone().unwrap(), guest.host.try_clone().unwrap());
    let frame = pattern(6 << 20);
    let sent = frame.clone();
    let writer = thread::spawn(move || writer.write_all(&sent).unwrap());
    let reader = thread::spawn(move || {
        let mut got = vec![0; 6 << 20];
        reader.read_exact(&mut got).unwrap();
        got
    });
    let mut interrupts = 0;
    while guest.sent < frame.len() {
        guest.receive();
        let free = BUF_ALLOC - (guest.sent as u32).wrapping_sub(guest.device_fwd_cnt);
        let step = (guest.data.len() - guest.sent).min(free as usize).min(65536);
        if step > 0 {
            let data = guest.data[guest.sent..guest.sent + step].to_vec();
            guest.taken = guest.data.len() as u32;
            guest.send(Operation::ReadWrite, &data, 0);
        } else {
            interrupt.read().unwrap();
            interrupts += 1;
        }
    }
    writer.join().unwrap();
    assert!(reader.join().unwrap() == frame);
    devices.stop();
    println!("{interrupts} interrupts for 6 MiB there and back");
}

#[test]
fn a_limited_socket_sends_what_it_may_and_goes_on_when_the_timer_goes_off() {
    let rate = |per_second, burst| {
        let number = |value| std::num::NonZeroU64::new(value).unwrap();
        Some(Rate { per_second: number(per_second), burst: number(burst) })
    };
    let (mut host, stream) = UnixStream::pair().unwrap();
    let limits = Limits { operations: None, bytes: rate(200_000, 10_000) };
    let mut guest = Guest::with(Vsock::new(CID, PORT, stream, limits).unwrap(), host.try_clone().unwrap());
    guest.send(Operation::Request, &[], 0);
    guest.run();
    host.write_all(&pattern(20_000)).unwrap();
    guest.run();
    // The last packet that is let in may be larger than what is left.
    assert!((10_000..14_200).contains(&guest.data.len()), "{} bytes at once", guest.data.len());
    let timer = guest.driver.transport.device().sources()[2].try_clone_to_owned().unwrap();
    while guest.data.len() < 20_000 {
        rustix::io::read(&timer, &mut [0u8; 8]).unwrap();
        guest.driver.transport.source_ready(2, EventSet::IN);
        guest.receive();
    }
    assert!(guest.data == pattern(20_000));
}
