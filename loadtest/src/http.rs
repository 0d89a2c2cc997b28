//! A small HTTP/1.1 client for measuring: one blocking keep-alive connection, buffers kept between requests, nothing
//! between the caller and the socket that would add to what is measured.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

/// Most bytes of an answer's head.
const HEAD_LIMIT: usize = 64 * 1024;
const MAX_HEADERS: usize = 64;

/// A connection to one server. After an error it is of no further use.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    authority: String,
    out: Vec<u8>,
    input: Vec<u8>,
}

/// Names, in lower case, and values.
pub type Headers = Vec<(String, String)>;

/// What the server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub headers: Headers,
    pub body: Vec<u8>,
    /// From the first byte written to the last byte read.
    pub elapsed: Duration,
}

impl Answer {
    /// The first header called `name` (lower case).
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

fn invalid(reason: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.into())
}

impl Connection {
    /// Connects to `authority`, such as `127.0.0.1:8080`. No read waits longer than `timeout`.
    pub fn open(authority: &str, timeout: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect(authority)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(timeout))?;
        Ok(Self { stream, authority: authority.to_owned(), out: Vec::new(), input: Vec::new() })
    }

    /// The `Host` of every request.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Sends one request and reads its whole answer.
    pub fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Answer> {
        self.compose(method, path, headers, body)?;
        self.exchange()
    }

    /// Makes a request ready for [`Connection::exchange`].
    pub fn compose(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<()> {
        self.out.clear();
        write!(
            self.out,
            "{method} {path} HTTP/1.1\r\nhost: {}\r\ncontent-length: {}\r\n",
            self.authority,
            body.len()
        )?;
        for (name, value) in headers {
            write!(self.out, "{name}: {value}\r\n")?;
        }
        self.out.extend_from_slice(b"\r\n");
        self.out.extend_from_slice(body);
        Ok(())
    }

    /// The bytes of the request that was composed last.
    #[must_use]
    pub fn into_request(self) -> Vec<u8> {
        self.out
    }

    /// Sends the request that was composed last and reads its whole answer.
    pub fn exchange(&mut self) -> io::Result<Answer> {
        let begin = Instant::now();
        self.stream.write_all(&self.out)?;
        let (status, headers, head) = self.read_head()?;
        let body = self.read_body(status, &headers, head)?;
        Ok(Answer { status, headers, body, elapsed: begin.elapsed() })
    }

    /// Reads at least one byte more into `input`.
    fn fill(&mut self) -> io::Result<()> {
        let at = self.input.len();
        self.input.resize(at + 64 * 1024, 0);
        let read = self.stream.read(&mut self.input[at..]);
        self.input.truncate(at + *read.as_ref().unwrap_or(&0));
        match read? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection")),
            _ => Ok(()),
        }
    }

    /// Status, headers and how many bytes of `input` they took.
    fn read_head(&mut self) -> io::Result<(u16, Headers, usize)> {
        loop {
            let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
            let mut response = httparse::Response::new(&mut headers);
            let parsed = response.parse(&self.input).map_err(|error| invalid(error.to_string()))?;
            if let httparse::Status::Complete(length) = parsed {
                let status = response.code.unwrap_or_default();
                if status == 100 {
                    self.input.drain(..length);
                    continue;
                }
                let headers = response.headers.iter().map(|header| {
                    (header.name.to_ascii_lowercase(), String::from_utf8_lossy(header.value).into_owned())
                });
                return Ok((status, headers.collect(), length));
            }
            if self.input.len() > HEAD_LIMIT {
                return Err(invalid("the head of the answer is too long"));
            }
            self.fill()?;
        }
    }

    fn read_body(&mut self, status: u16, headers: &[(String, String)], head: usize) -> io::Result<Vec<u8>> {
        let find = |name| headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        if find("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
            return self.read_chunks(head);
        }
        let length = match find("content-length") {
            Some(value) => value.parse().map_err(|_| invalid(format!("content-length is {value:?}")))?,
            None if status == 204 || status == 304 => 0,
            None => return Err(invalid("the answer has no length")),
        };
        let end = head + length;
        while self.input.len() < end {
            self.fill()?;
        }
        let body = self.input[head..end].to_vec();
        self.input.drain(..end);
        Ok(body)
    }

    fn read_chunks(&mut self, mut at: usize) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let parsed = httparse::parse_chunk_size(&self.input[at..])
                .map_err(|_| invalid("a chunk has no valid size"))?;
            let httparse::Status::Complete((line, size)) = parsed else {
                self.fill()?;
                continue;
            };
            at += line;
            let size = usize::try_from(size).map_err(|_| invalid("a chunk is too large"))?;
            // The last chunk is empty and followed by trailers, which end like every chunk: with an empty line.
            while self.input.len() < at + size + 2 {
                self.fill()?;
            }
            if self.input[at + size..at + size + 2] != *b"\r\n" {
                return Err(invalid("a chunk does not end where it says, or the answer has trailers"));
            }
            body.extend_from_slice(&self.input[at..at + size]);
            at += size + 2;
            if size == 0 {
                self.input.drain(..at);
                return Ok(body);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{net::TcpListener, thread};

    /// A server that reads one request per answer and sends each answer in pieces of `piece` bytes.
    fn server(answers: Vec<&'static [u8]>, piece: usize) -> (String, thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        let thread = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_nodelay(true).unwrap();
            let mut seen = Vec::new();
            for answer in answers {
                let mut request = [0; 4096];
                let length = stream.read(&mut request).unwrap();
                seen.push(String::from_utf8_lossy(&request[..length]).into_owned());
                for part in answer.chunks(piece) {
                    stream.write_all(part).unwrap();
                }
            }
            seen
        });
        (authority, thread)
    }

    #[test]
    fn answers_of_every_framing_are_read_however_they_arrive() {
        let answers: Vec<&[u8]> = vec![
            b"HTTP/1.1 200 OK\r\nX-Amz-A: b\r\nContent-Length: 5\r\n\r\nhello",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n10;x=y\r\n0123456789abcdef\r\n0\r\n\r\n",
            b"HTTP/1.1 204 No Content\r\n\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 429 Slow\r\ncontent-length: 0\r\n\r\n",
        ];
        for piece in [1, 7, 4096] {
            let (authority, thread) = server(answers.clone(), piece);
            let mut connection = Connection::open(&authority, Duration::from_secs(5)).unwrap();
            let mut send = || connection.send("POST", "/p", &[("a", "b")], b"xy").unwrap();
            let first = send();
            assert_eq!(
                (first.status, first.header("x-amz-a"), &*first.body),
                (200, Some("b"), &b"hello"[..])
            );
            assert_eq!(send().body, b"abc0123456789abcdef");
            assert_eq!(send().status, 204);
            assert_eq!(send().status, 429);
            let seen = thread.join().unwrap();
            assert_eq!(
                seen[3],
                format!("POST /p HTTP/1.1\r\nhost: {authority}\r\ncontent-length: 2\r\na: b\r\n\r\nxy")
            );
        }
    }

    #[test]
    fn broken_answers_are_errors() {
        for answer in [
            &b"SMTP ready\r\n\r\n"[..],
            b"HTTP/1.1 200 OK\r\ncontent-length: minus\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nabc\r\n",
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort",
        ] {
            let (authority, thread) = server(vec![answer], 4096);
            let mut connection = Connection::open(&authority, Duration::from_secs(5)).unwrap();
            assert!(connection.send("GET", "/", &[], b"").is_err(), "{}", String::from_utf8_lossy(answer));
            thread.join().unwrap();
        }
    }
}
