//! Requests out of bytes: the part of HTTP/1.1 (RFC 9112) that runtimes speak.
//!
//! ```text
//!        ┌──────────────────────────────── End ◄───────────────────────────────┐
//!        ▼                                                                     │
//!      Head ──── Content-Length, or none ──► Length(left) ── left = 0 ─────────┤
//!        │                                                                     │
//!        └── chunked ──► ChunkSize ◄──► ChunkData(left) ──► ChunkEnd           │
//!                            └── size 0 ──► Trailers ──────────────────────────┘
//! ```
//!
//! The parser holds at most [`SECTION_LIMIT`] bytes: an unfinished head, chunk size or trailer. Bodies pass through.

/// Largest request head or trailer section, bytes; longest chunk-size line.
pub(crate) const SECTION_LIMIT: usize = 16 * 1024;

/// Most header fields of a request.
const HEADERS: usize = 64;

/// A piece of a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    Head(Head),
    Body(&'a [u8]),
    End(Trailers),
}

/// What a request says before its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) keep_alive: bool,
    pub(crate) expects_continue: bool,
    /// `None` where the body is chunked.
    pub(crate) length: Option<u64>,
    pub(crate) content_type: Option<String>,
    /// `Lambda-Runtime-Function-Error-Type`
    pub(crate) error_type: Option<String>,
    /// `Lambda-Runtime-Function-XRay-Error-Cause`
    pub(crate) xray_cause: Option<String>,
    /// `Lambda-Runtime-Function-Response-Mode`
    pub(crate) response_mode: Option<String>,
}

/// What a streamed answer says behind its body: how it failed, if it did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Trailers {
    pub(crate) error_type: Option<String>,
    pub(crate) error_body: Option<String>,
}

/// The bytes are not a request. Where the next one would start is unknown: close the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Malformed {
    Syntax,
    TooLarge,
    /// Body length given twice, or in a way we do not know.
    Framing,
}

/// Cuts what arrives on one connection into pieces of requests.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    state: State,
    /// The beginning of an unfinished section.
    held: Vec<u8>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Head,
    Length(u64),
    ChunkSize,
    ChunkData(u64),
    ChunkEnd,
    Trailers,
}

impl Parser {
    /// Takes the next piece from the front of `input`; `None` if more bytes are needed, and then `input` is used up.
    pub(crate) fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Piece<'a>>, Malformed> {
        loop {
            match self.state {
                State::Head => {
                    let Some(head) = self.section(input, parse_head)? else {
                        return Ok(None);
                    };
                    self.state = head.length.map_or(State::ChunkSize, State::Length);
                    return Ok(Some(Piece::Head(head)));
                }
                State::Length(0) => {
                    self.state = State::Head;
                    return Ok(Some(Piece::End(Trailers::default())));
                }
                State::Length(left) => {
                    let Some((body, left)) = take(input, left) else {
                        return Ok(None);
                    };
                    self.state = State::Length(left);
                    return Ok(Some(Piece::Body(body)));
                }
                State::ChunkSize => {
                    let Some(size) = self.section(input, parse_chunk_size)? else {
                        return Ok(None);
                    };
                    self.state = if size == 0 { State::Trailers } else { State::ChunkData(size) };
                }
                State::ChunkData(0) => self.state = State::ChunkEnd,
                State::ChunkData(left) => {
                    let Some((body, left)) = take(input, left) else {
                        return Ok(None);
                    };
                    self.state = State::ChunkData(left);
                    return Ok(Some(Piece::Body(body)));
                }
                State::ChunkEnd => {
                    if self.section(input, parse_line_end)?.is_none() {
                        return Ok(None);
                    }
                    self.state = State::ChunkSize;
                }
                State::Trailers => {
                    let Some(trailers) = self.section(input, parse_trailers)? else {
                        return Ok(None);
                    };
                    self.state = State::Head;
                    return Ok(Some(Piece::End(trailers)));
                }
            }
        }
    }

    /// Takes a section that ends where `parse` says. In the usual case all of it is in `input`, and nothing is copied.
    fn section<T>(&mut self, input: &mut &[u8], parse: Parse<T>) -> Result<Option<T>, Malformed> {
        if self.held.is_empty() {
            if let Some((used, value)) = parse(input)? {
                *input = input.get(used..).unwrap_or_default();
                return if used > SECTION_LIMIT { Err(Malformed::TooLarge) } else { Ok(Some(value)) };
            }
            return self.hold(input);
        }
        let before = self.held.len();
        let room = SECTION_LIMIT.saturating_sub(before).min(input.len());
        let (candidate, rest) = input.split_at(room);
        self.held.extend_from_slice(candidate);
        // All sections end in a line feed: without a new one there is no use in parsing again.
        if candidate.contains(&b'\n')
            && let Some((used, value)) = parse(&self.held)?
        {
            let used = used.saturating_sub(before);
            *input = input.get(used..).unwrap_or_default();
            self.held = Vec::new();
            return Ok(Some(value));
        }
        *input = rest;
        if rest.is_empty() { Ok(None) } else { Err(Malformed::TooLarge) }
    }

    fn hold<T>(&mut self, input: &mut &[u8]) -> Result<Option<T>, Malformed> {
        if input.len() > SECTION_LIMIT {
            return Err(Malformed::TooLarge);
        }
        self.held.extend_from_slice(std::mem::take(input));
        Ok(None)
    }
}

/// Reads a section from the front of bytes: how long it is, and what it says. `None` if its end has not arrived.
type Parse<T> = fn(&[u8]) -> Result<Option<(usize, T)>, Malformed>;

/// Takes up to `left` bytes; `None` if there are none.
fn take<'a>(input: &mut &'a [u8], left: u64) -> Option<(&'a [u8], u64)> {
    if input.is_empty() {
        return None;
    }
    let length = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
    let (body, rest) = input.split_at(length);
    *input = rest;
    Some((body, left - u64::try_from(length).unwrap_or(left)))
}

fn parse_head(bytes: &[u8]) -> Result<Option<(usize, Head)>, Malformed> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(used) = request.parse(bytes).map_err(from_httparse)? else {
        return Ok(None);
    };
    let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version) else {
        return Err(Malformed::Syntax);
    };
    let mut head = Head {
        method: method.to_owned(),
        target: target.to_owned(),
        keep_alive: version == 1,
        expects_continue: false,
        length: Some(0),
        content_type: None,
        error_type: None,
        xray_cause: None,
        response_mode: None,
    };
    let mut framing = Framing::default();
    for header in request.headers.iter() {
        head.read(header, &mut framing)?;
    }
    head.length = framing.length()?;
    Ok(Some((used, head)))
}

/// How the body is delimited.
#[derive(Default)]
struct Framing {
    length: Option<u64>,
    chunked: bool,
}

impl Framing {
    fn length(&self) -> Result<Option<u64>, Malformed> {
        match (self.length, self.chunked) {
            // Two readers could disagree where this ends (RFC 9112, 6.3).
            (Some(_), true) => Err(Malformed::Framing),
            (length, false) => Ok(Some(length.unwrap_or(0))),
            (None, true) => Ok(None),
        }
    }
}

impl Head {
    fn read(&mut self, header: &httparse::Header<'_>, framing: &mut Framing) -> Result<(), Malformed> {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        let text = || Some(String::from_utf8_lossy(header.value).into_owned());
        let says = |word: &str| {
            header
                .value
                .split(|byte| *byte == b',')
                .any(|item| item.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
        };
        if is("content-length") {
            let length = parse_length(header.value).ok_or(Malformed::Framing)?;
            if framing.length.is_some_and(|earlier| earlier != length) {
                return Err(Malformed::Framing);
            }
            framing.length = Some(length);
        } else if is("transfer-encoding") {
            if framing.chunked || !header.value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                return Err(Malformed::Framing);
            }
            framing.chunked = true;
        } else if is("connection") {
            self.keep_alive = if self.keep_alive { !says("close") } else { says("keep-alive") };
        } else if is("expect") {
            self.expects_continue = says("100-continue");
        } else if is("content-type") {
            self.content_type = text();
        } else if is("lambda-runtime-function-error-type") {
            self.error_type = text();
        } else if is("lambda-runtime-function-xray-error-cause") {
            self.xray_cause = text();
        } else if is("lambda-runtime-function-response-mode") {
            self.response_mode = text();
        }
        Ok(())
    }
}

/// Digits only: no sign, no white space inside, no overflow.
fn parse_length(value: &[u8]) -> Option<u64> {
    let digits = value.trim_ascii();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn parse_chunk_size(bytes: &[u8]) -> Result<Option<(usize, u64)>, Malformed> {
    match httparse::parse_chunk_size(bytes) {
        Ok(httparse::Status::Complete((used, size))) => Ok(Some((used, size))),
        Ok(httparse::Status::Partial) => Ok(None),
        Err(_) => Err(Malformed::Syntax),
    }
}

fn parse_line_end(bytes: &[u8]) -> Result<Option<(usize, ())>, Malformed> {
    match bytes {
        [b'\r', b'\n', ..] => Ok(Some((2, ()))),
        [] | [b'\r'] => Ok(None),
        _ => Err(Malformed::Syntax),
    }
}

fn parse_trailers(bytes: &[u8]) -> Result<Option<(usize, Trailers)>, Malformed> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let parsed = httparse::parse_headers(bytes, &mut headers).map_err(from_httparse)?;
    let httparse::Status::Complete((used, headers)) = parsed else {
        return Ok(None);
    };
    let value = |name: &str| {
        let header = headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        Some(String::from_utf8_lossy(header.value).into_owned())
    };
    let error_type = value("lambda-runtime-function-error-type");
    Ok(Some((used, Trailers { error_type, error_body: value("lambda-runtime-function-error-body") })))
}

fn from_httparse(error: httparse::Error) -> Malformed {
    match error {
        httparse::Error::TooManyHeaders => Malformed::TooLarge,
        _ => Malformed::Syntax,
    }
}

#[cfg(test)]
mod tests;
