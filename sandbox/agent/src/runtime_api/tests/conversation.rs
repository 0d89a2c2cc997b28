//! Whatever a function does, its environment speaks to the invoker in order.

use proptest::prelude::*;

use super::*;

/// Things a hostile function may do.
#[derive(Debug, Clone)]
enum Step {
    Open,
    Close(usize),
    Say(usize, Vec<u8>),
    Drain(usize),
    Invoke,
}

fn step() -> impl Strategy<Value = Step> {
    let words = proptest::sample::select(vec![
        "GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\n\r\n",
        "POST /2018-06-01/runtime/invocation/1/response HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}",
        "POST /2018-06-01/runtime/invocation/1/response HTTP/1.1\r\nContent-Length: 4\r\n\r\n",
        "POST /2018-06-01/runtime/invocation/1/response HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\
         Lambda-Runtime-Function-Response-Mode: streaming\r\n\r\n",
        "POST /2018-06-01/runtime/invocation/1/error HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}",
        "POST /2018-06-01/runtime/init/error HTTP/1.1\r\nContent-Length: 1\r\n\r\n1",
        "3\r\nabc\r\n",
        "0\r\n\r\n",
        "abcd",
        "GET / HTTP/1.0\r\n\r\n",
    ]);
    let said = prop_oneof![
        8 => words.prop_map(|text| text.as_bytes().to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..40),
    ];
    prop_oneof![
        2 => Just(Step::Open),
        1 => (0..4usize).prop_map(Step::Close),
        8 => (0..4usize, said).prop_map(|(place, bytes)| Step::Say(place, bytes)),
        4 => (0..4usize).prop_map(Step::Drain),
        3 => Just(Step::Invoke),
    ]
}

proptest! {
    /// Whatever a function does, the invoker sees for each event at most one answer, whole, and asks only between events.
    #[test]
    fn the_invoker_sees_a_sound_conversation(steps in proptest::collection::vec(step(), 0..80)) {
        let mut world = World::new();
        // None: no event has been asked for; Some(false): idle; Some(true): an event is out.
        let (mut out, mut idle, mut streaming, mut init_failed) = (false, false, false, false);
        for step in steps {
            match step {
                Step::Open => { world.api.open(); }
                Step::Close(place) => world.api.closed(place),
                Step::Say(place, bytes) => world.api.received(place, &bytes),
                Step::Drain(place) => { world.answer_bytes(place); }
                Step::Invoke => {
                    prop_assert_eq!(world.api.invoke(event("1", "{}")).is_ok(), idle);
                    out |= idle;
                    idle = false;
                }
            }
            for frame in world.frames() {
                match frame {
                    AgentFrame::Idle => {
                        prop_assert!(!out && !idle && !streaming && !init_failed);
                        idle = true;
                    }
                    AgentFrame::ResponseHead { .. } => {
                        prop_assert!(out && !streaming);
                        streaming = true;
                    }
                    AgentFrame::ResponseChunk { .. } => prop_assert!(streaming),
                    AgentFrame::ResponseEnd { .. } => {
                        prop_assert!(streaming);
                        (streaming, out) = (false, false);
                    }
                    AgentFrame::InvocationError { .. } | AgentFrame::ResponseTooLarge { .. } => {
                        prop_assert!(out && !streaming);
                        out = false;
                    }
                    AgentFrame::InitError { .. } => {
                        prop_assert!(!out && !idle && !init_failed);
                        init_failed = true;
                    }
                    other => prop_assert!(false, "{other:?}"),
                }
            }
        }
    }
}

impl World {
    fn answer_bytes(&mut self, place: usize) -> usize {
        let Some(output) = self.api.output(place) else { return 0 };
        let bytes = output.slices().iter().map(|slice| slice.len()).sum();
        output.advance(bytes);
        self.api.drained(place);
        bytes
    }
}
