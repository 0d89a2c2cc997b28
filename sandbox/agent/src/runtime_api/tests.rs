use protocol::Decoder;

use super::*;

mod conversation;

const LIMIT: usize = 1000;

/// The API with its outputs collected.
struct World {
    api: RuntimeApi,
    decoder: Decoder,
}

impl World {
    fn new() -> Self {
        Self { api: RuntimeApi::new(LIMIT, None), decoder: Decoder::new() }
    }

    fn open(&mut self) -> usize {
        self.api.open().expect("a free place")
    }

    /// Sends bytes on a connection and returns what is answered at once.
    fn say(&mut self, place: usize, bytes: impl AsRef<[u8]>) -> String {
        self.api.received(place, bytes.as_ref());
        self.answer(place)
    }

    /// Takes the answer on a connection.
    fn answer(&mut self, place: usize) -> String {
        let mut all = Vec::new();
        while let Some(output) = self.api.output(place).filter(|output| !output.is_empty()) {
            // A few bytes at a time, as a slow reader takes them.
            let next: Vec<u8> =
                output.slices().iter().flat_map(|slice| slice.iter().copied()).take(7).collect();
            output.advance(next.len());
            all.extend(next);
            if output.is_empty() {
                self.api.drained(place);
            }
        }
        String::from_utf8(all).expect("text")
    }

    fn frames(&mut self) -> Vec<AgentFrame> {
        let bytes = std::mem::take(self.api.frames());
        self.decoder.extend(&bytes);
        std::iter::from_fn(|| AgentFrame::decode(&mut self.decoder).expect("frames")).collect()
    }

    fn next(&mut self, place: usize) -> String {
        self.say(place, "GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\n\r\n")
    }

    fn post(&mut self, place: usize, path: &str, fields: &str, body: &str) -> String {
        let length = body.len();
        self.say(
            place,
            format!(
                "POST /2018-06-01/runtime/{path} HTTP/1.1\r\n{fields}Content-Length: {length}\r\n\r\n{body}"
            ),
        )
    }

    /// A connection on which the event of request `id` has been received.
    fn busy(&mut self, id: &str) -> usize {
        let place = self.open();
        assert_eq!(self.next(place), "");
        assert_eq!(self.frames(), [AgentFrame::Idle]);
        assert_eq!(self.api.invoke(event(id, "{}")).expect("idle"), Some(place));
        assert!(self.answer(place).starts_with("HTTP/1.1 200 OK\r\n"));
        place
    }
}

fn event(id: &str, payload: &str) -> Invoke {
    Invoke {
        request_id: id.to_owned(),
        deadline_ms: 1234,
        invoked_function_arn: "arn:aws:lambda:us-east-1:000000000000:function:f".to_owned(),
        xray_trace_id: "Root=1-2-3".to_owned(),
        traceparent: None,
        client_context: None,
        cognito_identity: None,
        tenant_id: None,
        payload: payload.as_bytes().to_vec(),
    }
}

fn response(id: &str, body: &str) -> [AgentFrame; 3] {
    let head = AgentFrame::ResponseHead {
        request_id: id.to_owned(),
        content_type: "application/json".to_owned(),
        mode: ResponseMode::Buffered,
    };
    let end = AgentFrame::ResponseEnd { error_type: None, error_body: None };
    [head, AgentFrame::ResponseChunk { bytes: body.as_bytes().to_vec() }, end]
}

const ACCEPTED: &str = "HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n{\"status\":\"OK\"}";
const INVALID_ID: &str = r#"{"errorMessage":"Invalid request ID","errorType":"InvalidRequestID"}"#;

#[test]
fn an_event_goes_out_with_its_headers_and_its_answer_comes_back() {
    let mut world = World::new();
    let place = world.open();
    assert_eq!(world.next(place), "");
    assert_eq!(world.frames(), [AgentFrame::Idle]);
    let mut invoke = event("id-1", r#"{"a":1}"#);
    invoke.client_context = Some("{\"x\":\r\n1}".to_owned());
    invoke.traceparent = Some("00-01-02-03".to_owned());
    invoke.tenant_id = Some("blue".to_owned());
    world.api.invoke(invoke).expect("idle");
    assert_eq!(
        world.answer(place),
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\
         Lambda-Runtime-Aws-Request-Id: id-1\r\nLambda-Runtime-Deadline-Ms: 1234\r\n\
         Lambda-Runtime-Invoked-Function-Arn: arn:aws:lambda:us-east-1:000000000000:function:f\r\n\
         Lambda-Runtime-Trace-Id: Root=1-2-3\r\ntraceparent: 00-01-02-03\r\nLambda-Runtime-Client-Context: {\"x\":  1}\r\n\
         Lambda-Runtime-Aws-Tenant-Id: blue\r\n\r\n{\"a\":1}"
    );
    assert_eq!(world.post(place, "invocation/id-1/response", "", "\"yes\""), ACCEPTED);
    assert_eq!(world.frames(), response("id-1", "\"yes\""));
    assert_eq!(world.next(place), "");
    assert_eq!(world.frames(), [AgentFrame::Idle]);
}

#[test]
fn an_error_of_the_function_is_passed_on() {
    let mut world = World::new();
    let place = world.busy("1");
    let fields =
        "Lambda-Runtime-Function-Error-Type: Oops\r\nLambda-Runtime-Function-XRay-Error-Cause: {}\r\n";
    assert_eq!(world.post(place, "invocation/1/error", fields, "{\"e\":1}"), ACCEPTED);
    let expected = AgentFrame::InvocationError {
        request_id: "1".to_owned(),
        error_type: "Oops".to_owned(),
        xray_cause: Some("{}".to_owned()),
        body: b"{\"e\":1}".to_vec(),
    };
    assert_eq!(world.frames(), [expected]);
}

#[test]
fn an_init_error_is_passed_on_and_no_event_is_given_afterwards() {
    let mut world = World::new();
    let place = world.open();
    let fields = "Lambda-Runtime-Function-Error-Type: Runtime.NoSuchModule\r\n";
    assert_eq!(world.post(place, "init/error", fields, "{}"), ACCEPTED);
    let expected =
        AgentFrame::InitError { error_type: "Runtime.NoSuchModule".to_owned(), body: b"{}".to_vec() };
    assert_eq!(world.frames(), [expected]);
    let refusal = world.next(place);
    assert!(refusal.starts_with("HTTP/1.1 403 ") && refusal.contains("InvalidStateTransition"), "{refusal}");
    assert!(world.post(place, "init/error", "", "{}").starts_with("HTTP/1.1 403 "));
    assert_eq!(world.frames(), []);
}

#[test]
fn another_id_and_a_second_answer_are_refused() {
    let mut world = World::new();
    let place = world.busy("1");
    for path in ["invocation/2/response", "invocation/2/error"] {
        let refusal = world.post(place, path, "", "{}");
        assert!(refusal.starts_with("HTTP/1.1 400 ") && refusal.ends_with(INVALID_ID), "{refusal}");
    }
    assert_eq!(world.post(place, "invocation/1/response", "", "{}"), ACCEPTED);
    assert_eq!(world.frames().len(), 3);
    assert!(world.post(place, "invocation/1/response", "", "{}").ends_with(INVALID_ID));
    assert!(world.post(place, "invocation/1/error", "", "{}").ends_with(INVALID_ID));
    assert_eq!(world.frames(), []);
}

#[test]
fn a_second_answer_on_another_connection_is_refused_while_the_first_is_coming() {
    let mut world = World::new();
    let first = world.busy("1");
    let second = world.open();
    world
        .say(first, "POST /2018-06-01/runtime/invocation/1/response HTTP/1.1\r\nContent-Length: 4\r\n\r\n12");
    assert!(world.post(second, "invocation/1/response", "", "{}").ends_with(INVALID_ID));
    assert!(world.next(second).starts_with("HTTP/1.1 403 "));
    assert_eq!(world.say(first, "34"), ACCEPTED);
    assert_eq!(world.frames(), response("1", "1234"));
}

#[test]
fn an_answer_that_breaks_off_leaves_no_trace_and_may_be_repeated() {
    let mut world = World::new();
    let first = world.busy("1");
    world
        .say(first, "POST /2018-06-01/runtime/invocation/1/response HTTP/1.1\r\nContent-Length: 4\r\n\r\n12");
    world.api.closed(first);
    let second = world.open();
    assert_eq!(world.post(second, "invocation/1/response", "", "{}"), ACCEPTED);
    assert_eq!(world.frames(), response("1", "{}"));
}

#[test]
fn too_large_an_answer_is_refused_and_reported_whether_its_length_is_announced_or_not() {
    for chunked in [false, true] {
        let mut world = World::new();
        let place = world.busy("1");
        let body = "x".repeat(LIMIT + 1);
        let answer = if chunked {
            let head = "POST /2018-06-01/runtime/invocation/1/response HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
            world.say(place, format!("{head}{:x}\r\n{body}\r\n0\r\n\r\n", body.len()))
        } else {
            world.post(place, "invocation/1/response", "", &body)
        };
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
        let expected = r#"{"errorMessage":"Exceeded maximum allowed payload size (1000 bytes).","errorType":"RequestEntityTooLarge"}"#;
        assert!(answer.ends_with(expected), "{answer}");
        let expected = AgentFrame::ResponseTooLarge { request_id: "1".to_owned(), bytes: LIMIT as u64 + 1 };
        assert_eq!(world.frames(), [expected]);
        assert_eq!(world.next(place), "", "and life goes on");
    }
    let mut world = World::new();
    let place = world.busy("1");
    assert_eq!(
        world.post(place, "invocation/1/response", "", &"x".repeat(LIMIT)),
        ACCEPTED,
        "the limit itself is allowed"
    );
}

#[test]
fn a_streamed_answer_is_passed_on_as_it_comes() {
    let mut world = World::new();
    let place = world.busy("1");
    world.say(
        place,
        "POST /2018-06-01/runtime/invocation/1/response HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\
         Lambda-Runtime-Function-Response-Mode: streaming\r\nContent-Type: text/plain\r\n\r\n3\r\nabc\r\n",
    );
    let head = AgentFrame::ResponseHead {
        request_id: "1".to_owned(),
        content_type: "text/plain".to_owned(),
        mode: ResponseMode::Streaming,
    };
    assert_eq!(world.frames(), [head, AgentFrame::ResponseChunk { bytes: b"abc".to_vec() }]);
    let answer = world.say(
        place,
        "0\r\nLambda-Runtime-Function-Error-Type: Late\r\nLambda-Runtime-Function-Error-Body: e30=\r\n\r\n",
    );
    assert_eq!(answer, ACCEPTED);
    let end =
        AgentFrame::ResponseEnd { error_type: Some("Late".to_owned()), error_body: Some("e30=".to_owned()) };
    assert_eq!(world.frames(), [end]);
}

#[test]
fn a_streamed_answer_that_breaks_off_says_so() {
    let mut world = World::new();
    let place = world.busy("1");
    let head = "POST /2018-06-01/runtime/invocation/1/response HTTP/1.1\r\nContent-Length: 9\r\n";
    world.say(place, format!("{head}Lambda-Runtime-Function-Response-Mode: streaming\r\n\r\nabc"));
    world.api.closed(place);
    let Some(AgentFrame::ResponseEnd { error_type, .. }) = world.frames().pop() else {
        panic!("it should end")
    };
    assert_eq!(error_type.as_deref(), Some("Runtime.TruncatedResponse"));
}

#[test]
fn an_unknown_response_mode_fails_the_invocation() {
    let mut world = World::new();
    let place = world.busy("1");
    let answer = world.post(
        place,
        "invocation/1/response",
        "Lambda-Runtime-Function-Response-Mode: jumping\r\n",
        "{}",
    );
    assert!(
        answer.starts_with("HTTP/1.1 400 ") && answer.contains("InvalidFunctionResponseMode"),
        "{answer}"
    );
    let [AgentFrame::InvocationError { error_type, .. }] = &world.frames()[..] else { panic!("one error") };
    assert_eq!(error_type, "Runtime.InvalidResponseModeHeader");
}

#[test]
fn of_two_that_ask_each_gets_an_event_of_its_own() {
    let mut world = World::new();
    let (first, second) = (world.open(), world.open());
    world.next(first);
    world.next(second);
    assert_eq!(world.frames(), [AgentFrame::Idle], "one event is asked for");
    assert_eq!(world.api.invoke(event("1", "{}")).expect("idle"), Some(first));
    assert!(world.answer(first).contains("Request-Id: 1\r\n"));
    assert_eq!(world.answer(second), "");
    assert_eq!(world.post(first, "invocation/1/response", "", "{}"), ACCEPTED);
    world.next(first);
    assert_eq!(world.frames().pop(), Some(AgentFrame::Idle));
    assert_eq!(
        world.api.invoke(event("2", "{}")).expect("idle"),
        Some(second),
        "who waited longer comes first"
    );
}

#[test]
fn a_runtime_that_asks_again_while_busy_gets_the_same_event_again() {
    let mut world = World::new();
    let first = world.busy("1");
    world.api.closed(first);
    let second = world.open();
    let again = world.next(second);
    assert!(again.contains("Request-Id: 1\r\n") && again.ends_with("{}"), "{again}");
    assert_eq!(world.frames(), []);
}

#[test]
fn an_event_for_a_runtime_that_hung_up_waits_for_it_to_ask_again() {
    let mut world = World::new();
    let first = world.open();
    world.next(first);
    world.api.closed(first);
    assert_eq!(world.api.invoke(event("1", "{}")).expect("idle"), None);
    let second = world.open();
    assert!(world.next(second).contains("Request-Id: 1\r\n"));
}

#[test]
fn an_event_nobody_asked_for_is_refused() {
    let mut world = World::new();
    assert!(world.api.invoke(event("1", "{}")).is_err());
    world.busy("1");
    assert!(world.api.invoke(event("2", "{}")).is_err());
}

#[test]
fn unknown_paths_and_methods_are_refused_and_the_connection_lives() {
    let mut world = World::new();
    let place = world.open();
    for path in [
        "/",
        "/2018-06-01/runtime/invocation/",
        "/2018-06-01/runtime/invocation/1/response/x",
        "/2020-01-01/extension/register",
    ] {
        let answer = world.say(place, format!("POST {path} HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"));
        assert!(answer.starts_with("HTTP/1.1 404 "), "{path}: {answer}");
    }
    let wrong = [("POST", "invocation/next"), ("GET", "invocation/1/response"), ("GET", "init/error")];
    for (method, path) in wrong {
        let answer = world.say(place, format!("{method} /2018-06-01/runtime/{path} HTTP/1.1\r\n\r\n"));
        assert!(answer.starts_with("HTTP/1.1 405 "), "{path}: {answer}");
    }
    assert_eq!(world.next(place), "");
    assert_eq!(world.frames(), [AgentFrame::Idle]);
}

#[test]
fn garbage_closes_its_connection_and_no_other() {
    let mut world = World::new();
    let (bad, good) = (world.open(), world.open());
    let answer = world.say(bad, "\x00\x01 garbage\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("Connection: close"), "{answer}");
    assert!(world.api.is_over(bad));
    assert_eq!(world.say(bad, "GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\n\r\n"), "");
    assert_eq!(world.frames(), []);
    world.next(good);
    assert_eq!(world.frames(), [AgentFrame::Idle]);
}

#[test]
fn a_client_that_waits_for_leave_to_send_gets_it() {
    let mut world = World::new();
    let place = world.busy("1");
    let head = "POST /2018-06-01/runtime/invocation/1/response HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
    assert_eq!(world.say(place, head), "HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(world.say(place, "{}"), ACCEPTED);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let mut world = World::new();
    let place = world.open();
    let get = "GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\n\r\n";
    let post = "POST /2018-06-01/runtime/invocation/1/response HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}";
    assert_eq!(world.say(place, format!("{get}{post}{get}")), "");
    world.api.invoke(event("1", "[]")).expect("idle");
    let answers = world.answer(place);
    assert!(answers.starts_with("HTTP/1.1 200 ") && answers.ends_with(ACCEPTED), "{answers}");
    let frames = world.frames();
    assert_eq!((frames.first(), frames.last()), (Some(&AgentFrame::Idle), Some(&AgentFrame::Idle)));
    assert_eq!(frames[1..4], response("1", "{}"));
}

#[test]
fn too_many_pipelined_bytes_close_the_connection() {
    let mut world = World::new();
    let place = world.open();
    world.next(place);
    let answer = world.say(place, vec![b'x'; PIPELINED_LIMIT + 1]);
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

#[test]
fn connections_are_bounded_and_finished_ones_make_room() {
    let mut world = World::new();
    let places: Vec<usize> = std::iter::from_fn(|| world.api.open()).collect();
    assert_eq!(places.len(), CONNECTIONS);
    world.say(places[3], "GET / HTTP/1.0\r\n\r\n");
    assert_eq!(world.api.open(), Some(places[3]));
    assert_eq!(world.api.open(), None);
}

/// Counts how often it was asked.
#[derive(Debug)]
struct Asked(u64);

impl Measure for Asked {
    fn usage(&mut self) -> Usage {
        self.0 += 1;
        Usage { memory_peak: self.0, out_of_memory: self.0 > 1 }
    }
}

#[test]
fn what_was_used_is_told_before_what_ends_the_use() {
    let mut world = World { api: RuntimeApi::new(LIMIT, Some(Box::new(Asked(0)))), decoder: Decoder::new() };
    let place = world.open();
    world.next(place);
    let usage = |memory_peak, out_of_memory| AgentFrame::Usage(Usage { memory_peak, out_of_memory });
    assert_eq!(world.frames(), [usage(1, false), AgentFrame::Idle]);
    world.api.runtime_exited(-9);
    assert_eq!(world.frames(), [usage(2, true), AgentFrame::RuntimeExited { status: -9 }]);
}
