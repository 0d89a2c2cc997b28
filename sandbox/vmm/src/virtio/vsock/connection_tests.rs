//! The connection against a model that counts in numbers which do not wrap, and knows everything.

use proptest::prelude::*;

use super::{
    connection::{BUF_ALLOC, Connection, Phase, Received},
    packet::{Header, Operation, TYPE_STREAM},
};

const CID: u64 = 3;
const PORT: u32 = 1024;
const GUEST_PORT: u32 = 77;

fn packet(operation: Operation, len: u32) -> Header {
    Header {
        src_cid: CID,
        dst_cid: 2,
        src_port: GUEST_PORT,
        dst_port: PORT,
        len,
        socket_type: TYPE_STREAM,
        op: operation as u16,
        buf_alloc: 1000,
        ..Header::default()
    }
}

fn connected() -> Connection {
    let mut connection = Connection::new(CID, PORT);
    connection.receive(&packet(Operation::Request, 0), 0);
    assert_eq!(connection.next_packet().unwrap().op, Operation::Response as u16);
    connection
}

#[test]
fn a_request_with_a_payload_or_of_another_type_is_refused() {
    for (len, socket_type) in [(1, TYPE_STREAM), (0, 2), (0, 0)] {
        let mut connection = Connection::new(CID, PORT);
        connection.receive(&Header { socket_type, ..packet(Operation::Request, len) }, 1);
        assert_eq!(connection.phase(), Phase::Listening);
        let refusal = connection.next_packet().unwrap();
        assert_eq!((refusal.op, refusal.socket_type), (Operation::Reset as u16, socket_type));
    }
}

#[test]
fn a_reset_is_never_answered() {
    for mut connection in [Connection::new(CID, PORT), connected()] {
        connection.receive(&packet(Operation::Reset, 0), 0);
        connection.receive(&packet(Operation::Reset, 0), 0);
        assert_eq!(connection.next_packet(), None);
    }
}

#[test]
fn packets_of_another_sender_are_dropped() {
    let mut connection = connected();
    connection.receive(&Header { src_cid: 4, ..packet(Operation::Reset, 0) }, 0);
    connection.receive(&Header { src_cid: 2, ..packet(Operation::Request, 0) }, 0);
    assert_eq!((connection.phase(), connection.next_packet()), (Phase::Connected, None));
}

#[test]
fn what_does_not_belong_into_a_connection_ends_it() {
    let unknown = Header { op: 8, ..packet(Operation::Reset, 0) };
    let invalid = Header { op: 0, ..packet(Operation::Reset, 0) };
    for wrong in [
        packet(Operation::Request, 0),
        packet(Operation::Response, 0),
        packet(Operation::CreditUpdate, 1),
        packet(Operation::ReadWrite, BUF_ALLOC + 1),
        unknown,
        invalid,
    ] {
        let mut connection = connected();
        assert_eq!(connection.receive(&wrong, u32::MAX), Received::Nothing);
        assert_eq!(connection.phase(), Phase::Finished);
        assert_eq!(connection.next_packet().unwrap().op, Operation::Reset as u16);
        assert_eq!(connection.next_packet(), None);
    }
}

#[test]
fn data_after_the_end_of_data_ends_the_connection() {
    let mut connection = connected();
    connection.receive(&Header { flags: 2, ..packet(Operation::Shutdown, 0) }, 0);
    assert_eq!(connection.phase(), Phase::Connected);
    assert_eq!(connection.receive(&packet(Operation::ReadWrite, 1), 1), Received::Nothing);
    assert_eq!(connection.phase(), Phase::Finished);
}

#[test]
fn answers_that_are_owed_are_bounded() {
    let mut connection = connected();
    for port in 0..10_000 {
        connection.receive(&Header { src_port: port + 1000, ..packet(Operation::ReadWrite, 5) }, 5);
    }
    assert!(connection.is_congested());
    assert_eq!(std::iter::from_fn(|| connection.next_packet()).count(), 32);
}

/// A guest that lies about what it has read gains nothing but what it says it can hold.
#[test]
fn credit_that_cannot_be_is_not_believed() {
    let mut connection = connected();
    connection.data(600);
    assert_eq!(connection.credit(), 400);
    for (fwd_cnt, credit) in
        [(601, 400), (u32::MAX, 400), (500, 900), (400, 900), (600, 1000), (1 << 31, 1000)]
    {
        connection.receive(&Header { fwd_cnt, ..packet(Operation::CreditUpdate, 0) }, 0);
        assert_eq!(connection.credit(), credit, "{fwd_cnt}");
    }
    connection.receive(&Header { fwd_cnt: 600, buf_alloc: 0, ..packet(Operation::CreditUpdate, 0) }, 0);
    assert_eq!(connection.credit(), 0);
}

#[derive(Debug, Clone)]
enum Step {
    /// The host sends this share of what it may.
    ToGuest(u8),
    /// The guest reads this share of what it has, and says so.
    GuestReads(u8),
    /// The guest says something that was true a while ago.
    Stale,
    /// The guest changes its buffer.
    Resize(u32),
    /// The guest sends so much, allowed or not.
    FromGuest(u32),
    /// The host takes this share of what is there.
    HostReads(u8),
    /// The guest asks.
    Ask,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        any::<u8>().prop_map(Step::ToGuest),
        any::<u8>().prop_map(Step::GuestReads),
        Just(Step::Stale),
        (0..500_000u32).prop_map(Step::Resize),
        (0..BUF_ALLOC).prop_map(|bytes| Step::FromGuest(bytes / 3)),
        any::<u8>().prop_map(Step::HostReads),
        Just(Step::Ask),
    ]
}

fn share(part: u8, of: u64) -> u32 {
    u32::try_from(of * u64::from(part) / 255).unwrap()
}

proptest! {
    #[test]
    fn credit_is_exact(start in any::<u32>(), steps in prop::collection::vec(step(), 1..200)) {
        let mut connection = connected();
        connection.count_from(start);
        // The model: bytes since the beginning, in each direction.
        let (mut sent, mut read, mut stale, mut buffer) = (0u64, 0u64, 0u64, 1000u32);
        let (mut received, mut forwarded, mut told) = (0u64, 0u64, 0u64);
        let wrapped = |count: u64| start.wrapping_add(count as u32);
        for step in steps {
            let allowed = u64::from(buffer).saturating_sub(sent - read);
            prop_assert_eq!(u64::from(connection.credit()), allowed);
            let says = |operation, len, fwd_cnt, buf_alloc| Header {
                fwd_cnt: wrapped(fwd_cnt), buf_alloc, ..packet(operation, len)
            };
            match step {
                Step::ToGuest(part) => {
                    let bytes = share(part, allowed);
                    let header = connection.data(bytes);
                    prop_assert_eq!((header.len, header.fwd_cnt), (bytes, wrapped(forwarded)));
                    (sent, told) = (sent + u64::from(bytes), forwarded);
                }
                Step::GuestReads(part) => {
                    (stale, read) = (read, read + u64::from(share(part, sent - read)));
                    connection.receive(&says(Operation::CreditUpdate, 0, read, buffer), 0);
                }
                Step::Stale => {
                    connection.receive(&says(Operation::CreditUpdate, 0, stale, buffer), 0);
                }
                Step::Resize(to) => {
                    buffer = to;
                    connection.receive(&says(Operation::CreditUpdate, 0, read, buffer), 0);
                }
                Step::FromGuest(bytes) => {
                    let fits = received - forwarded + u64::from(bytes) <= u64::from(BUF_ALLOC);
                    let outcome = connection.receive(&says(Operation::ReadWrite, bytes, read, buffer), bytes);
                    if !fits {
                        prop_assert_eq!(outcome, Received::Nothing);
                        prop_assert_eq!(connection.phase(), Phase::Finished);
                        return Ok(());
                    }
                    prop_assert_eq!(outcome, Received::Data(bytes));
                    received += u64::from(bytes);
                }
                Step::HostReads(part) => {
                    let bytes = share(part, received - forwarded);
                    connection.forwarded(bytes);
                    forwarded += u64::from(bytes);
                }
                Step::Ask => {
                    connection.receive(&says(Operation::CreditRequest, 0, read, buffer), 0);
                    let answer = connection.next_packet().unwrap();
                    prop_assert_eq!((answer.op, answer.fwd_cnt), (Operation::CreditUpdate as u16, wrapped(forwarded)));
                    told = forwarded;
                }
            }
            if forwarded - told >= u64::from(BUF_ALLOC / 4) {
                let update = connection.next_packet().unwrap();
                prop_assert_eq!((update.op, update.fwd_cnt), (Operation::CreditUpdate as u16, wrapped(forwarded)));
                told = forwarded;
            }
            prop_assert_eq!(connection.next_packet(), None, "and nothing that nobody needs");
        }
    }
}
