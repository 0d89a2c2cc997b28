//! Every frame survives the wire in any fragmentation; nothing that arrives makes a decoder panic or swell.

use proptest::{collection::vec, option, prelude::*};
use protocol::{
    AgentFrame, DecodeError, Decoder, Invoke, InvokerFrame, LogStream, MAX_FRAME, ResponseMode, Start, Usage,
};

fn text() -> impl Strategy<Value = String> {
    "\\PC{0,40}"
}

fn invoker_frame() -> impl Strategy<Value = InvokerFrame> {
    let start = (
        any::<u32>(),
        vec(text(), 0..4),
        text(),
        vec((text(), text()), 0..8),
        (any::<u32>(), any::<u32>(), any::<u32>()),
    )
        .prop_map(
            |(version, command, directory, variables, (function_uid, agent_uid, response_limit))| {
                InvokerFrame::Start(Start {
                    version,
                    command,
                    directory,
                    variables,
                    function_uid,
                    agent_uid,
                    response_limit,
                })
            },
        );
    let invoke = (
        (text(), any::<u64>(), text(), text()),
        (option::of(text()), option::of(text()), option::of(text()), option::of(text())),
        vec(any::<u8>(), 0..300),
    )
        .prop_map(
            |((request_id, deadline_ms, arn, trace), (context, identity, tenant, traceparent), payload)| {
                InvokerFrame::Invoke(Invoke {
                    request_id,
                    deadline_ms,
                    invoked_function_arn: arn,
                    xray_trace_id: trace,
                    traceparent,
                    client_context: context,
                    cognito_identity: identity,
                    tenant_id: tenant,
                    payload,
                })
            },
        );
    prop_oneof![start, invoke, Just(InvokerFrame::Shutdown)]
}

fn agent_frame() -> impl Strategy<Value = AgentFrame> {
    let bytes = || vec(any::<u8>(), 0..300);
    let stream = prop_oneof![Just(LogStream::Stdout), Just(LogStream::Stderr)];
    let mode = prop_oneof![Just(ResponseMode::Buffered), Just(ResponseMode::Streaming)];
    prop_oneof![
        any::<u32>().prop_map(|version| AgentFrame::Hello { version }),
        Just(AgentFrame::Idle),
        (stream, bytes()).prop_map(|(stream, bytes)| AgentFrame::Log { stream, bytes }),
        (text(), text(), mode).prop_map(|(request_id, content_type, mode)| AgentFrame::ResponseHead {
            request_id,
            content_type,
            mode
        }),
        bytes().prop_map(|bytes| AgentFrame::ResponseChunk { bytes }),
        (option::of(text()), option::of(text()))
            .prop_map(|(error_type, error_body)| { AgentFrame::ResponseEnd { error_type, error_body } }),
        (text(), text(), option::of(text()), bytes()).prop_map(
            |(request_id, error_type, xray_cause, body)| {
                AgentFrame::InvocationError { request_id, error_type, xray_cause, body }
            }
        ),
        (text(), bytes()).prop_map(|(error_type, body)| AgentFrame::InitError { error_type, body }),
        (text(), any::<u64>())
            .prop_map(|(request_id, bytes)| AgentFrame::ResponseTooLarge { request_id, bytes }),
        any::<i32>().prop_map(|status| AgentFrame::RuntimeExited { status }),
        text().prop_map(|reason| AgentFrame::StartFailed { reason }),
        (any::<u64>(), any::<bool>()).prop_map(|(memory_peak, out_of_memory)| {
            AgentFrame::Usage(Usage { memory_peak, out_of_memory })
        }),
    ]
}

/// Feeds `wire` to a decoder in pieces of `piece` bytes and takes every frame on the way.
fn decode_in_pieces<T>(
    wire: &[u8],
    piece: usize,
    decode: impl Fn(&mut Decoder) -> Result<Option<T>, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let mut decoder = Decoder::new();
    let mut frames = Vec::new();
    for bytes in wire.chunks(piece) {
        decoder.extend(bytes);
        while let Some(frame) = decode(&mut decoder)? {
            frames.push(frame);
        }
    }
    Ok(frames)
}

proptest! {
    #[test]
    fn invoker_frames_survive_any_fragmentation(frames in vec(invoker_frame(), 1..5), piece in 1usize..64) {
        let mut wire = Vec::new();
        frames.iter().for_each(|frame| frame.encode(&mut wire));
        prop_assert_eq!(decode_in_pieces(&wire, piece, InvokerFrame::decode), Ok(frames));
    }

    #[test]
    fn agent_frames_survive_any_fragmentation(frames in vec(agent_frame(), 1..5), piece in 1usize..64) {
        let mut wire = Vec::new();
        frames.iter().for_each(|frame| frame.encode(&mut wire));
        prop_assert_eq!(decode_in_pieces(&wire, piece, AgentFrame::decode), Ok(frames));
    }

    #[test]
    fn altered_frames_are_frames_or_errors_but_never_a_panic(
        frame in agent_frame(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut wire = Vec::new();
        frame.encode(&mut wire);
        let index = at.index(wire.len());
        wire[index] = byte;
        let _ = decode_in_pieces(&wire, 7, AgentFrame::decode);
        let _ = decode_in_pieces(&wire, 7, InvokerFrame::decode);
    }
}

#[test]
fn a_frame_that_claims_too_much_is_refused_before_it_is_awaited() {
    let mut decoder = Decoder::new();
    let claimed = u32::try_from(MAX_FRAME + 1).unwrap();
    decoder.extend(&claimed.to_le_bytes());
    assert_eq!(AgentFrame::decode(&mut decoder), Err(DecodeError::Length(claimed)));
}

#[test]
fn bytes_behind_the_last_field_are_an_error() {
    let mut wire = Vec::new();
    AgentFrame::Idle.encode(&mut wire);
    wire[0] += 1;
    wire.push(0);
    let mut decoder = Decoder::new();
    decoder.extend(&wire);
    assert_eq!(AgentFrame::decode(&mut decoder), Err(DecodeError::LeftOver(1)));
}

#[test]
fn a_start_frame_cannot_claim_more_items_than_are_allowed() {
    let mut decoder = Decoder::new();
    let mut wire = vec![9, 0, 0, 0, 1];
    wire.extend_from_slice(&1u32.to_le_bytes());
    wire.extend_from_slice(&u32::MAX.to_le_bytes());
    decoder.extend(&wire);
    assert_eq!(InvokerFrame::decode(&mut decoder), Err(DecodeError::Value("number of items")));
}
