//! A packet's header (virtio 1.2, 5.10.6).
//!
//! ```text
//!  0         8         16         20         24    28     30   32      36          40        44
//!  ┌─────────┬─────────┬──────────┬──────────┬─────┬──────┬────┬───────┬───────────┬─────────┬─ ─ ─ ─ ─
//!  │ src_cid │ dst_cid │ src_port │ dst_port │ len │ type │ op │ flags │ buf_alloc │ fwd_cnt │ payload …
//!  └─────────┴─────────┴──────────┴──────────┴─────┴──────┴────┴───────┴───────────┴─────────┴─ ─ ─ ─ ─
//! ```
//!
//! All little-endian. The header is copied out of guest memory as bytes and read from the copy.

/// Bytes of a header.
pub const HEADER: usize = HEADER_LENGTH as usize;
/// The same, where lengths of the guest's are counted.
pub const HEADER_LENGTH: u32 = 44;

/// The only type of socket here: a stream of bytes.
pub const TYPE_STREAM: u16 = 1;

/// In a [`Operation::Shutdown`]: the sender will receive nothing more.
pub const SHUTDOWN_RECEIVE: u32 = 1;
/// In a [`Operation::Shutdown`]: the sender will send nothing more.
pub const SHUTDOWN_SEND: u32 = 2;

/// What a packet is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Operation {
    /// May I connect?
    Request = 1,
    /// You may.
    Response = 2,
    /// There is no such connection, any more or at all.
    Reset = 3,
    /// One of the `SHUTDOWN_` flags, or both.
    Shutdown = 4,
    /// Data.
    ReadWrite = 5,
    /// Nothing but the credit that every packet carries.
    CreditUpdate = 6,
    /// Tell me my credit.
    CreditRequest = 7,
}

impl Operation {
    /// The operation of a number.
    pub fn of(number: u16) -> Option<Self> {
        use Operation::{CreditRequest, CreditUpdate, ReadWrite, Request, Reset, Response, Shutdown};
        [Request, Response, Reset, Shutdown, ReadWrite, CreditUpdate, CreditRequest]
            .into_iter()
            .find(|operation| *operation as u16 == number)
    }
}

/// A header, as it is: nothing in it has been checked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Header {
    /// Whose it is.
    pub src_cid: u64,
    /// Whom it is for.
    pub dst_cid: u64,
    /// Whose it is there.
    pub src_port: u32,
    /// Whom it is for there.
    pub dst_port: u32,
    /// Bytes of payload.
    pub len: u32,
    /// [`TYPE_STREAM`], or unknown.
    pub socket_type: u16,
    /// An [`Operation`], or unknown.
    pub op: u16,
    /// Of the operation.
    pub flags: u32,
    /// Bytes that the sender can hold for its reader.
    pub buf_alloc: u32,
    /// Bytes that its reader has taken, all in all; wraps around.
    pub fwd_cnt: u32,
}

impl Header {
    /// Reads a header.
    pub fn decode(bytes: [u8; HEADER]) -> Self {
        let mut rest = bytes.into_iter();
        Self {
            src_cid: u64::from_le_bytes(take(&mut rest)),
            dst_cid: u64::from_le_bytes(take(&mut rest)),
            src_port: u32::from_le_bytes(take(&mut rest)),
            dst_port: u32::from_le_bytes(take(&mut rest)),
            len: u32::from_le_bytes(take(&mut rest)),
            socket_type: u16::from_le_bytes(take(&mut rest)),
            op: u16::from_le_bytes(take(&mut rest)),
            flags: u32::from_le_bytes(take(&mut rest)),
            buf_alloc: u32::from_le_bytes(take(&mut rest)),
            fwd_cnt: u32::from_le_bytes(take(&mut rest)),
        }
    }

    /// Writes a header.
    pub fn encode(&self) -> [u8; HEADER] {
        let cids = self.src_cid.to_le_bytes().into_iter().chain(self.dst_cid.to_le_bytes());
        let ports = [self.src_port, self.dst_port, self.len].map(u32::to_le_bytes);
        let kind = [self.socket_type, self.op].map(u16::to_le_bytes);
        let credit = [self.flags, self.buf_alloc, self.fwd_cnt].map(u32::to_le_bytes);
        let mut bytes = [0; HEADER];
        let fields = cids.chain(ports.into_iter().flatten()).chain(kind.into_iter().flatten());
        bytes.iter_mut().zip(fields.chain(credit.into_iter().flatten())).for_each(|(to, from)| *to = from);
        bytes
    }

    /// The answer to a packet that belongs to nothing; to a reset there is none (5.10.6.1).
    pub fn refusal(&self) -> Option<Self> {
        (self.op != Operation::Reset as u16).then_some(Self {
            src_cid: self.dst_cid,
            dst_cid: self.src_cid,
            src_port: self.dst_port,
            dst_port: self.src_port,
            socket_type: self.socket_type,
            op: Operation::Reset as u16,
            ..Self::default()
        })
    }
}

fn take<const N: usize>(bytes: &mut impl Iterator<Item = u8>) -> [u8; N] {
    std::array::from_fn(|_| bytes.next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use virtio_vsock::packet::{PKT_HEADER_SIZE, VsockPacket};

    use super::*;

    #[test]
    fn the_layout_is_golden() {
        let header = Header {
            src_cid: 3,
            dst_cid: 2,
            src_port: 0x0102_0304,
            dst_port: 1024,
            len: 0x0a0b,
            socket_type: TYPE_STREAM,
            op: Operation::ReadWrite as u16,
            flags: 0x11,
            buf_alloc: 0x0004_0000,
            fwd_cnt: 0xffff_fffe,
        };
        let golden = "0300000000000000 0200000000000000 04030201 00040000 0b0a0000 0100 0500 11000000 00000400 feffffff";
        let hex: String = header.encode().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, golden.replace(' ', ""));
    }

    proptest! {
        /// The field's own crate sees the same header.
        #[test]
        fn agrees_with_virtio_vsock(bytes in any::<[[u8; 22]; 2]>()) {
            let bytes: [u8; HEADER] = bytes.concat().try_into().unwrap();
            let header = Header::decode(bytes);
            prop_assert_eq!(header.encode(), bytes);
            let mut backing = [0; PKT_HEADER_SIZE];
            // SAFETY: the bytes outlive the packet, and nobody else uses them meanwhile.
            let mut packet = unsafe { VsockPacket::new(&mut backing, None) }.unwrap();
            packet.set_header_from_raw(&bytes).unwrap();
            let theirs = Header {
                src_cid: packet.src_cid(),
                dst_cid: packet.dst_cid(),
                src_port: packet.src_port(),
                dst_port: packet.dst_port(),
                len: packet.len(),
                socket_type: packet.type_(),
                op: packet.op(),
                flags: packet.flags(),
                buf_alloc: packet.buf_alloc(),
                fwd_cnt: packet.fwd_cnt(),
            };
            prop_assert_eq!(header, theirs);
        }
    }
}
