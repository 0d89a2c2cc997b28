use proptest::prelude::*;

use super::*;

/// A request as it was understood: its head, its whole body, its trailers.
#[derive(Debug, PartialEq, Eq)]
struct Whole {
    head: Head,
    body: Vec<u8>,
    trailers: Trailers,
}

/// Feeds `bytes` in pieces that end at `cuts`.
fn parse(bytes: &[u8], cuts: &[usize]) -> (Vec<Whole>, Result<(), Malformed>) {
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    ends.push(bytes.len());
    ends.sort_unstable();
    let (mut parser, mut whole, mut current, mut start) = (Parser::default(), Vec::new(), None, 0);
    for end in ends {
        let mut input = &bytes[start..end];
        start = end;
        loop {
            match parser.next(&mut input) {
                Ok(None) => break,
                Ok(Some(Piece::Head(head))) => current = Some((head, Vec::new())),
                Ok(Some(Piece::Body(body))) => {
                    assert!(!body.is_empty());
                    current.as_mut().expect("a head comes first").1.extend_from_slice(body);
                }
                Ok(Some(Piece::End(trailers))) => {
                    let (head, body) = current.take().expect("a head comes first");
                    whole.push(Whole { head, body, trailers });
                }
                Err(malformed) => return (whole, Err(malformed)),
            }
            assert!(parser.held.len() <= SECTION_LIMIT);
        }
        assert!(input.is_empty(), "what is not needed now would be lost");
    }
    (whole, Ok(()))
}

fn one(bytes: &[u8]) -> Whole {
    let (mut whole, end) = parse(bytes, &[]);
    assert_eq!((whole.len(), end), (1, Ok(())));
    whole.remove(0)
}

fn refused(bytes: &[u8]) -> Malformed {
    parse(bytes, &[]).1.expect_err("should be refused")
}

#[test]
fn what_a_runtime_says_is_understood() {
    let request = one(b"POST /2018-06-01/runtime/invocation/1/response HTTP/1.1\r\nHost: x\r\n\
        content-type: text/plain\r\nLambda-Runtime-Function-Error-Type: E\r\nLAMBDA-RUNTIME-FUNCTION-XRAY-ERROR-CAUSE: {}\r\n\
        Lambda-Runtime-Function-Response-Mode: streaming\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello");
    let head = request.head;
    assert_eq!((head.method.as_str(), head.length, head.keep_alive), ("POST", Some(5), true));
    assert!(head.expects_continue);
    assert_eq!(head.content_type.as_deref(), Some("text/plain"));
    assert_eq!((head.error_type.as_deref(), head.xray_cause.as_deref()), (Some("E"), Some("{}")));
    assert_eq!(head.response_mode.as_deref(), Some("streaming"));
    assert_eq!(request.body, b"hello");
}

#[test]
fn chunks_are_joined_and_trailers_read() {
    let request = one(
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;ext=1\r\nabc\r\nA\r\n0123456789\r\n0\r\n\
        Lambda-Runtime-Function-Error-Type: Oops\r\nLambda-Runtime-Function-Error-Body: e30=\r\n\r\n",
    );
    assert_eq!(request.head.length, None);
    assert_eq!(request.body, b"abc0123456789");
    let trailers = Trailers { error_type: Some("Oops".to_owned()), error_body: Some("e30=".to_owned()) };
    assert_eq!(request.trailers, trailers);
}

#[test]
fn connections_close_when_asked_and_with_version_1_0() {
    assert!(!one(b"GET / HTTP/1.1\r\nConnection: Upgrade, close\r\n\r\n").head.keep_alive);
    assert!(!one(b"GET / HTTP/1.0\r\n\r\n").head.keep_alive);
    assert!(one(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").head.keep_alive);
}

#[test]
fn bodies_of_doubtful_length_are_refused() {
    for fields in [
        "Content-Length: 1\r\nContent-Length: 2",
        "Content-Length: +1",
        "Content-Length: 1 1",
        "Content-Length:",
        "Content-Length: 99999999999999999999",
        "Content-Length: 1\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    ] {
        let request = format!("POST / HTTP/1.1\r\n{fields}\r\n\r\n");
        assert_eq!(refused(request.as_bytes()), Malformed::Framing, "{fields}");
    }
    assert_eq!(refused(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc"), Malformed::Syntax);
    assert_eq!(refused(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), Malformed::Syntax);
}

#[test]
fn heads_and_trailers_are_bounded() {
    let long = "x".repeat(SECTION_LIMIT);
    assert_eq!(refused(format!("GET / HTTP/1.1\r\na: {long}\r\n\r\n").as_bytes()), Malformed::TooLarge);
    let chunked = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n";
    assert_eq!(refused(format!("{chunked}a: {long}").as_bytes()), Malformed::TooLarge);
    let many = "a: b\r\n".repeat(HEADERS + 1);
    assert_eq!(refused(format!("GET / HTTP/1.1\r\n{many}\r\n").as_bytes()), Malformed::TooLarge);
    let mut cuts: Vec<usize> = (0..SECTION_LIMIT + 100).collect();
    cuts.retain(|cut| cut % 7 == 0);
    let (_, end) = parse(format!("GET / HTTP/1.1\r\na: {long}{long}").as_bytes(), &cuts);
    assert_eq!(end, Err(Malformed::TooLarge), "in small pieces too");
}

/// A request and what should be understood of it.
fn request() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let body = proptest::collection::vec(any::<u8>(), 0..300);
    (body, proptest::option::of(proptest::collection::vec(1usize..50, 1..8))).prop_map(|(body, chunks)| {
        let mut bytes = b"POST /some/target HTTP/1.1\r\nHost: localhost\r\n".to_vec();
        match chunks {
            None => bytes.extend(format!("Content-Length: {}\r\n\r\n", body.len()).into_bytes()),
            Some(sizes) => {
                bytes.extend(b"Transfer-Encoding: chunked\r\n\r\n");
                let (mut rest, mut sizes) = (body.as_slice(), sizes.into_iter().cycle());
                while !rest.is_empty() {
                    let size = sizes.next().unwrap_or(1).min(rest.len());
                    let (chunk, behind) = rest.split_at(size);
                    rest = behind;
                    bytes.extend(format!("{size:x}\r\n").into_bytes());
                    bytes.extend(chunk);
                    bytes.extend(b"\r\n");
                }
                bytes.extend(b"0\r\n\r\n");
                return (bytes, body);
            }
        }
        bytes.extend(&body);
        (bytes, body)
    })
}

proptest! {
    #[test]
    fn requests_are_the_same_however_they_arrive(
        requests in proptest::collection::vec(request(), 1..4),
        cuts in proptest::collection::vec(any::<usize>(), 0..20),
    ) {
        let bytes: Vec<u8> = requests.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
        let (cut, end) = parse(&bytes, &cuts);
        prop_assert_eq!(end, Ok(()));
        prop_assert_eq!(&cut, &parse(&bytes, &[]).0);
        let bodies: Vec<Vec<u8>> = requests.into_iter().map(|(_, body)| body).collect();
        prop_assert_eq!(cut.into_iter().map(|whole| whole.body).collect::<Vec<_>>(), bodies);
    }

    #[test]
    fn garbage_is_refused_or_ignored_but_harmless(
        bytes in proptest::collection::vec(any::<u8>(), 0..2000),
        cuts in proptest::collection::vec(any::<usize>(), 0..20),
    ) {
        // Whatever is understood of it: `parse` checks that nothing is lost or hoarded.
        let _ = parse(&bytes, &cuts);
    }

    #[test]
    fn damaged_requests_are_harmless(
        (mut bytes, _) in request(),
        damage in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..6),
        cuts in proptest::collection::vec(any::<usize>(), 0..20),
    ) {
        for (at, byte) in damage {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        // Whatever is understood of it: `parse` checks that nothing is lost or hoarded.
        let _ = parse(&bytes, &cuts);
    }
}
